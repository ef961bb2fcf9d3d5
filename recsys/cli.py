"""The command `recsys`."""

from core.cli import domain_command

main = domain_command("recsys")

if __name__ == "__main__":
    main()
