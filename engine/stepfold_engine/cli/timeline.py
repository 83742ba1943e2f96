"""A run as a timeline, printed while its code is replayed (``replaying.machine.Listener``)."""

from collections.abc import Callable
from types import FrameType

from rich.console import Console
from rich.text import Text

from stepfold.replay import Ask, Outcome
from stepfold_engine.cli.wording import BAD, MILD, OK, duration
from stepfold_engine.replaying.frames import locals_of
from stepfold_engine.replaying.machine import Listener, Passing, Silent, Story, place_of
from stepfold_engine.replaying.telling import (
    Recorded,
    error_text,
    outcome_text,
    place_text,
    steps_in,
    text_of,
    value_of,
)
from stepfold_engine.replaying.tracing import Trace

NAME_WIDTH = 22


class Timeline(Silent):
    """Prints a line for everything that the code gets.

    Args:
        console: where to print.
        story: the run.
        trace: what it writes down, too.
        verbose: also what the code asks for, what earlier attempts raised, and whole values.
    """

    def __init__(self, console: Console, story: Story, trace: Trace, *, verbose: bool) -> None:
        self._console, self._trace, self._verbose = console, trace, verbose
        self._steps = steps_in(story.facts, story.run.run)
        self._start_ms = story.run.started_ms

    def asked(self, ask: Ask) -> None:
        """See ``Listener``."""
        self._trace.asked(ask)
        if self._verbose:
            line = Text(f"  {'':>10}  asks for {ask.kind} {ask.name}", MILD)
            self._console.print(_placed(line, place_text(place_of(ask))), soft_wrap=True)

    def given(self, ask: Ask, outcome: Outcome) -> None:
        """See ``Listener``."""
        self._trace.given(ask, outcome)
        step = self._steps.get(ask.key)
        if step is None:
            return
        if self._verbose:
            for number, error in enumerate(step.errors, 1):
                said = f"  {'':>10}  attempt {number} raised {error_text(error)}"
                self._console.print(Text(said, BAD), soft_wrap=True)
        since = duration(outcome.at_ms - self._start_ms)
        line = Text(f"  +{since:<10} ", MILD)
        line.append(f"{step.kind:<6} ", MILD)
        line.append(f"{ask.name:<{NAME_WIDTH}} ", "bold" if step.kind == "step" else "")
        line.append(f"{_took(step):<22} ", BAD if step.failed else OK)
        line.append(outcome_text(outcome.entry), BAD if step.failed else "")
        if ask.cancelled:
            line.append("  (no longer awaited)", MILD)
        self._console.print(_placed(line, place_text(place_of(ask))), soft_wrap=True)
        if self._verbose and (value := value_of(outcome.entry)) is not None:
            self._console.print(Text(f"  {'':>10}  {text_of(value)}", MILD), soft_wrap=True)


def _took(step: Recorded) -> str:
    word = "failed in" if step.failed else "in"
    attempt = f", attempt {step.attempt}" if step.attempt > 1 else ""
    return f"{word} {duration(step.took_ms)}{attempt}"


def _placed(line: Text, place: str) -> Text:
    if place:
        line.append(f"  {place}", "cyan")
    return line


class Looker(Passing):
    """Shows the author's local variables where a step is called (``Listener``)."""

    def __init__(
        self,
        inner: Listener,
        console: Console,
        step: str,
        where: Callable[[], FrameType | None],
    ) -> None:
        super().__init__(inner)
        self._console, self._step, self._where = console, step, where
        self._seen = False

    def named(self, name: str) -> None:
        """See ``Listener``."""
        super().named(name)
        frame = self._where() if name == self._step and not self._seen else None
        if frame is None:
            return
        self._seen = True
        place = place_text((frame.f_code.co_filename, frame.f_lineno))
        self._console.print(Text(f"\n  before step '{name}', at {place}:", "bold"), soft_wrap=True)
        for variable, value in locals_of(frame).items():
            self._console.print(Text(f"    {variable} = {value}"), soft_wrap=True)
        self._console.print()


class LiveTimeline(Silent):
    """Prints what the code of a run that goes on live gets."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def given(self, ask: Ask, outcome: Outcome) -> None:
        """See ``Listener``."""
        line = Text(f"  {ask.kind:<6} ", MILD)
        line.append(f"{ask.name:<{NAME_WIDTH}} ", "bold" if ask.kind == "step" else "")
        line.append(outcome_text(outcome.entry))
        self._console.print(_placed(line, place_text(place_of(ask))), soft_wrap=True)
