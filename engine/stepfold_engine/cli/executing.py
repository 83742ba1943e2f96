"""``stepfold replay --execute-from``: memoized up to a step, live after it."""

import sys

import typer
from rich.console import Console
from rich.text import Text

from stepfold.app import App
from stepfold.attempts import Attempt
from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.cli.tables import make_console
from stepfold_engine.cli.timeline import LiveTimeline
from stepfold_engine.cli.wording import BAD, MILD, OK
from stepfold_engine.replaying.live import Cut, Live, cut_at
from stepfold_engine.replaying.machine import Machine, Story
from stepfold_engine.replaying.telling import end_text, outcome_text, place_text, short, what
from stepfold_engine.replaying.tracing import text_of_body
from stepfold_engine.replaying.verdicts import awaited_text


def execute(app: App, story: Story, step: str, *, dry_run: bool, sure: bool) -> int:
    """Go on live from a step, or show what would run; return the exit code."""
    console = make_console()
    machine = Machine(app.functions)
    try:
        cut = cut_at(machine, story, step)
    except LookupError as error:
        fail(str(error), USAGE)
    finally:
        machine.close()
    if dry_run:
        _show(console, cut)
        return 0
    if not sure and not sys.stdin.isatty():
        fail("steps would run, and nobody can be asked: give --yes, or see with --dry-run", USAGE)
    live = Live(app.functions[story.run.function], cut, _Person(console, sure=sure))
    told = live.run(LiveTimeline(console))
    if live.declined:
        console.print(Text("stopped: the step was not run", MILD))
        return 1
    if told.end is not None:
        console.print(Text(f"\n{end_text(told.end)}", OK), soft_wrap=True)
        return 0
    words = ", ".join(awaited_text(ask) for ask in told.awaited) or "something outside"
    text = f"\nwaits for {words}: nothing is recorded of it, and nothing here can give it"
    console.print(Text(text, BAD), soft_wrap=True)
    return 1


def _show(console: Console, cut: Cut) -> None:
    """Say what would run, as far as recorded outcomes tell the way."""
    console.print("with the outcomes that are recorded, this is what would run:\n")
    for heard in cut.live:
        place = place_text(heard.place)
        known = cut.recorded.get(heard.key)
        if heard.kind == "step":
            line = Text(f"  run       {what(heard.kind, heard.name)}  ", BAD)
            line.append(short(heard.text.removeprefix("step ")))
        elif heard.kind in ("sleep", "timer"):
            line = Text(f"  no wait   {what(heard.kind, heard.name)}", MILD)
        elif known is not None and known.outcome is not None:
            line = Text(f"  recorded  {what(heard.kind, heard.name)}  ", MILD)
            line.append(outcome_text(known.outcome))
        else:
            line = Text(f"  ends at   {what(heard.kind, heard.name)}, which has no outcome")
        line.append(f"  {place}", "cyan")
        console.print(line, soft_wrap=True)


class _Person:
    """The person at the terminal."""

    def __init__(self, console: Console, *, sure: bool) -> None:
        self._console, self._sure = console, sure

    def may_run(self, attempt: Attempt) -> bool:
        """Ask whether a step may run."""
        said = f"step '{attempt.name}' {short(text_of_body(attempt.body).removeprefix('step '))}"
        if self._sure:
            self._console.print(Text(f"  runs {said}", BAD), soft_wrap=True)
            return True
        answer = typer.prompt(f"run {said}? [y]es, [a]ll that follow, [n]o", default="n")
        self._sure = answer.lower().startswith("a")
        return self._sure or answer.lower().startswith("y")

    def not_sent(self, what: str) -> None:
        """Say what would have been sent."""
        self._console.print(Text(f"  not sent: {short(what)}", MILD), soft_wrap=True)

    def again(self, name: str, error: str) -> None:
        """Say that a step is tried again."""
        text = f"  step '{name}' raised {short(error)}; tried again, without waiting"
        self._console.print(Text(text, BAD), soft_wrap=True)
