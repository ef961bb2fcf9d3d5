"""The command `remote-sensing`."""

from core.cli import domain_command

main = domain_command("remote_sensing")

if __name__ == "__main__":
    main()
