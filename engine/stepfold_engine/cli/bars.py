"""How far something is, shown to a person who waits."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn


class Bar:
    """Shows how far something is, on standard error, once it takes a while."""

    def __init__(self, words: str) -> None:
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.shown = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self.shown.add_task(words, total=None)

    def __call__(self, done: int, total: int) -> None:
        """Show it."""
        self.shown.update(self._task, completed=done, total=total)
        if done < total:
            self.shown.start()
        else:
            self.stop()

    def stop(self) -> None:
        """Show it no more. What was never shown is not ended: that would print a line."""
        if self.shown.live.is_started:
            self.shown.stop()


@contextmanager
def bar(words: str) -> Generator[Bar]:
    """Show a bar while the block runs."""
    shown = Bar(words)
    try:
        yield shown
    finally:
        shown.stop()
