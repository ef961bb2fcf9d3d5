"""The command `har`."""

from core.cli import domain_command

main = domain_command(
    "har",
    {
        "predict": "the activities in a new recording: checkpoint=RUN predict.file=FILE; "
        "predict.seconds=3.5 and predict.step=0.5 of the window that slides, out=FILE.parquet"
    },
)

if __name__ == "__main__":
    main()
