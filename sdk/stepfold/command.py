"""The command ``stepfold``: hands over to the engine's command line, if the engine is installed."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from stepfold_engine.cli import main as run  # noqa: PLC0415 - an extra that may be missing
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"the command needs the engine ({error.name} is not installed):"
            " pip install 'stepfold[engine]'\n"
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
