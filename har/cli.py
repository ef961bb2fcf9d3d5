"""The command `har`."""

from core.cli import domain_command

main = domain_command(
    "har", {"predict": "the activities in a new recording: checkpoint=RUN predict.file=FILE"}
)

if __name__ == "__main__":
    main()
