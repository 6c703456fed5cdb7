"""`python -m jobs`: the same as the console script `attrain`."""

import sys


def main() -> None:
    """Load the commands and run one. Ctrl-C ends it with a word and 130, even while the commands are still being loaded."""
    try:
        from jobs.cli import main as run_command

        run_command()
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(130)
    except SystemExit as ended:
        if ended.code == 130:
            _say_interrupted()
        raise


def _say_interrupted() -> None:
    print("interrupted; the same command continues", file=sys.stderr)


if __name__ == "__main__":
    main()
