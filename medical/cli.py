"""The command `medical`."""

from core.cli import domain_command

main = domain_command("medical")

if __name__ == "__main__":
    main()
