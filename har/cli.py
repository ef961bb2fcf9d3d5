"""The command `har`."""

from core.cli import domain_command

main = domain_command("har")

if __name__ == "__main__":
    main()
