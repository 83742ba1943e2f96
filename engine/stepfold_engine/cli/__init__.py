"""The command line: the only place that knows every part."""

from stepfold_engine.cli.program import main

__all__ = ["main"]
