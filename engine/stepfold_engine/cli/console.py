"""What ``stepfold dev`` prints while it runs: a line for everything that happens to a run.

Printing never slows the engine down: a thread prints, and what it cannot print in time is counted.
"""

import threading
from collections import deque
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from stepfold.port import Fact
from stepfold_engine.cli.wording import Line, clock, described, text
from stepfold_engine.history import short_id
from stepfold_engine.owner import Owner
from stepfold_engine.wire.live import news_of
from stepfold_engine.wire.models import fact_body
from stepfold_schemas.entries import Decision, RunCancelled, RunCompleted, RunFailed, RunStarted
from stepfold_schemas.ids import key_of

PRINT_EVERY_S = 0.1
BACKLOG_MAX = 300
"""Decisions that wait to be printed; with the pause, about 3,000 a second."""

_ENDS = (RunCompleted, RunFailed, RunCancelled)


class LiveLog:
    """Prints confirmed entries of runs (``effects.Watcher``)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._waiting: deque[tuple[bytes, str, Fact]] = deque()
        self._functions: dict[bytes, str] = {}
        self._dropped = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stepfold-console", daemon=True)

    def start(self) -> None:
        """Begin to print."""
        self._thread.start()

    def stop(self) -> None:
        """Print what is left, and end."""
        self._stop.set()
        self._thread.join(2.0)

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a decision (``effects.Watcher``)."""
        if len(self._waiting) >= BACKLOG_MAX:
            self._dropped += len(decision.entries)
            return
        for run, fact in news_of(decision):
            self._waiting.append((run, self._function(owner, run, fact), fact))

    def _function(self, owner: Owner, run: bytes, fact: Fact) -> str:
        entry = fact.entry
        if isinstance(entry, _ENDS):
            known = self._functions.pop(run, "")
        elif isinstance(entry, RunStarted):
            known = self._functions[run] = entry.function
        else:
            known = self._functions.get(run, "")
        if not known and (state := owner.state.runs.get(key_of(run))) is not None:
            known = self._functions[run] = state.function
        return known

    def _run(self) -> None:
        while not self._stop.wait(PRINT_EVERY_S):
            self._print()
        self._print()

    def _print(self) -> None:
        for _ in range(len(self._waiting)):
            run, function, fact = self._waiting.popleft()
            body = fact_body(run, fact, function)
            line = described(body)
            if line is not None:
                print_line(self._console, body, short_id(run), line)
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._console.print(Text(f"… {dropped:,} more entries", "dim"))


def print_line(
    console: Console, body: Mapping[str, object], run: str, line: Line, width: int = 24
) -> None:
    """Print a line of a live log: time, function, run, what happened."""
    at_ms = body.get("at_ms")
    whole = Text(clock(at_ms if isinstance(at_ms, int) else 0, millis=True), "dim")
    whole.append(f"  {text(body, 'function'):<{width}}  ", "bold")
    whole.append(f"{run}  ", "cyan")
    whole.append(line.text, line.style)
    console.print(whole, soft_wrap=True)
