"""``stepfold replay``: a run's code against its history, with a timeline, a debugger, what ifs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer
from rich.text import Text

from stepfold.app import App
from stepfold_engine.cli.executing import execute
from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.cli.fetching import (
    Data,
    Kafka,
    Namespace,
    Where,
    runs_of,
)
from stepfold_engine.cli.kafkaoptions import EVENTS_PREFIX, EventsPrefix
from stepfold_engine.cli.loading import LoadError, NoSuchFileError, load, parse_target
from stepfold_engine.cli.remote import URL_DEFAULT, Url
from stepfold_engine.cli.tables import make_console
from stepfold_engine.cli.timeline import Looker, Timeline
from stepfold_engine.cli.wording import BAD, MILD, OK, clock
from stepfold_engine.recordings import facts_in
from stepfold_engine.replaying.debugging import Debugger, Hooks, Stopper
from stepfold_engine.replaying.frames import owner
from stepfold_engine.replaying.machine import Listener, Machine, Story, Told, story_of
from stepfold_engine.replaying.telling import end_of, end_text, short, steps_in
from stepfold_engine.replaying.tracing import Trace
from stepfold_engine.replaying.verdicts import awaited_text, explained, recorded_end
from stepfold_engine.replaying.whatif import (
    Change,
    ChangeError,
    fail_step,
    first_difference,
    set_event,
    set_outcome,
)
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.reports import RunReturned
from stepfold_schemas.runfile import ExportedRun

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A file made by stepfold export, or a run's id.")
]
Target = Annotated[
    str, typer.Argument(metavar="FILE[:APP]", help="The Python file with the App, as it is now.")
]
Values = list[str] | None

Pdb = Annotated[
    bool, typer.Option("--pdb", help="Stop before --step, or where the function raises.")
]
StepId = Annotated[
    str, typer.Option("--step", help="A step's id; without --pdb, show what is known there.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also asks, failed attempts, values, logs."),
]
Attempt = Annotated[
    int, typer.Option("--attempt", min=0, help="Of the function's own code; the last if 0.")
]
Outcomes = Annotated[
    Values, typer.Option("--set", metavar="STEP=JSON", help="What if a step had given this?")
]
Failures = Annotated[
    Values, typer.Option("--fail", metavar="STEP=TEXT", help="What if a step had failed?")
]
Events = Annotated[
    Values,
    typer.Option("--set-event", metavar="PATH=JSON", help="What if the event had been so?"),
]
ExecuteFrom = Annotated[
    str, typer.Option("--execute-from", metavar="STEP", help="Run this step and what follows.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="With --execute-from: only show what would run.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Run steps without asking.")]


def replay(  # noqa: PLR0913 - the options of a command
    run: Run,
    target: Target,
    *,
    pdb: Pdb = False,
    step: StepId = "",
    verbose: Verbose = False,
    attempt: Attempt = 0,
    outcomes: Outcomes = None,
    failures: Failures = None,
    events: Events = None,
    execute_from: ExecuteFrom = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    data: Data = None,
    kafka: Kafka = "",
    namespace: Namespace = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    url: Url = URL_DEFAULT,
) -> None:
    """Run a run's code again against its history: nothing is executed, sent or written.

    Steps return, or raise, what they did then.

    For example:

      stepfold replay run.avro app.py

      stepfold replay run.avro app.py --pdb --step charge

      stepfold replay run.avro app.py --set 'charge={"state": "declined"}'

      stepfold replay run.avro app.py --execute-from ship --dry-run
    """
    app = loaded(target)
    file = runs_of(run, Where(url, data, kafka, namespace, events_prefix))
    session = Session(app, _story(file.first, attempt, app), verbose=verbose)
    changes = [
        *((set_outcome, text) for text in outcomes or []),
        *((fail_step, text) for text in failures or []),
        *((set_event, text) for text in events or []),
    ]
    if execute_from:
        _known(session.story, execute_from)
        code = execute(app, session.story, execute_from, dry_run=dry_run, sure=yes)
    elif changes:
        code = session.what_if(changes)
    else:
        if step:
            _known(session.story, step)
        code = session.plain(step, debug=pdb)
    raise typer.Exit(code)


def loaded(target: str) -> App:
    """Return the app in a file; what cannot be used ends the command."""
    try:
        return load(parse_target(target))
    except NoSuchFileError as error:
        fail(str(error), USAGE)
    except LoadError as error:
        fail(str(error), FAILED)


def _story(run: ExportedRun, attempt: int, app: App) -> Story:
    if run.function not in app.functions:
        there = ", ".join(sorted(app.functions)) or "none"
        fail(f"the run is one of {run.function}, which is not in the app; there is {there}", USAGE)
    try:
        return story_of(run, attempt=attempt)
    except (ValueError, UndecodableError) as error:
        fail(str(error), USAGE)


def _known(story: Story, step: str) -> None:
    names = [s.name for s in steps_in(story.facts, story.run.run).values() if s.name]
    if step not in names:
        there = ", ".join(repr(name) for name in names) or "none"
        fail(f"the run has no step '{step}', only: {there}", USAGE)


class Session:
    """One run, and the code to replay it with."""

    def __init__(self, app: App, story: Story, *, verbose: bool) -> None:
        self.app, self.story, self._verbose = app, story, verbose
        self.function = app.functions[story.run.function]
        self._console = make_console()
        self._owns = owner(self.function.origins)

    def plain(self, step: str, *, debug: bool) -> int:
        """Replay it as it was; return the exit code."""
        self._head()
        trace = Trace(texts=False)
        machine = Machine(self.app.functions)
        debugger = Debugger(self._owns)
        listener: Listener = Timeline(self._console, self.story, trace, verbose=self._verbose)
        stopper: Stopper | None = None
        if debug:
            where = lambda: machine.own_caller(self._owns)  # noqa: E731 - one line
            listener = stopper = Stopper(listener, debugger, step, where, self._say_stopped)
        elif step:
            listener = Looker(listener, self._console, step, lambda: machine.own_caller(self._owns))
        try:
            with Hooks(debugger):
                told = machine.replay(self.story, listener, silent=not self._verbose)
            if (stopper is not None and stopper.left) or debugger.quitting:
                return 0
            self._say("")
            return self._judge(told, trace, machine)
        finally:
            machine.close()

    def _say_stopped(self, why: str) -> None:
        self._say(f"\nstopped: {why}", MILD)

    def _head(self) -> None:
        run, event = self.story.run, self.story.events[0]
        self._say(f"run {ulid_text(run.run)} of {run.function}", "bold")
        self._say(f"  then: {end_of(run, facts_in(run))}")
        since = clock(run.started_ms, millis=True)
        self._say(f"  began {since} with {event.name} {short(event.data.decode())}")
        same = self.function.spec().fingerprint == run.fingerprint
        self._say(f"  the function's code is {'the same as' if same else 'other than'} then", MILD)
        if run.redacted:
            self._say(f"  redacted: {', '.join(run.redacted)}; the code sees [redacted]", MILD)
        if run.gaps:
            self._say(f"  not whole: {run.gaps}", BAD)
        self._say("")

    def _judge(self, told: Told, trace: Trace, machine: Machine) -> int:
        if told.report is not None:
            self._diverged(told.report, trace)
            lenient = replace(self.story, lenient=True)
            self._now(machine.replay(lenient), "as far as recorded outcomes reach, it now")
            return FAILED
        then = recorded_end(self.story)
        if told.end is None:
            return self._open(told, ended=then is not None)
        said = end_text(told.end)
        if then is None:
            self._say(f"{said}: the run itself has not come so far", OK)
            return 0
        same = _same(then, told)
        self._say(
            f"{said}, as it did then" if same else f"{said}: not as it did then",
            OK if same else BAD,
        )
        return 0 if same else FAILED

    def _open(self, told: Told, *, ended: bool) -> int:
        words = ", ".join(awaited_text(ask) for ask in told.awaited) or "something outside"
        if ended:
            self._say(f"goes on with {words}; then, it ended here", BAD)
            return FAILED
        self._say(f"waits for {words}: nothing more is recorded", OK)
        return 0

    def _diverged(self, report: bytes, trace: Trace) -> None:
        explanation, case = explained(report, self.story, trace, self.app.functions)
        found = json.loads(report)
        at = f" at step '{case.expected}'" if case.expected else ""
        self._say(f"diverges{at}: {found['problem']}", BAD)
        met = ", ".join(f"{one['kind']} '{one['step']}'" for one in found["met"][:5])
        if case.expected:
            self._say(f"  the run did      {case.expected_kind} '{case.expected}'")
        self._say(f"  the code is at   {met or 'its end'}  {case.place}")
        self._say(f"  likely: {explanation.cause}")
        self._say(f"  {explanation.advice}")

    def _now(self, told: Told, words: str) -> None:
        if told.end is not None:
            self._say(f"{words} {end_text(told.end)}")
        elif told.report is None:
            asks = ", ".join(awaited_text(ask) for ask in told.awaited) or "something outside"
            self._say(f"{words} comes to {asks}, of which nothing is recorded")
        else:
            self._say(f"{words} gets stuck: {json.loads(told.report)['problem']}", BAD)

    # What if.

    def what_if(self, changes: Sequence[tuple[Change, str]]) -> int:
        """Replay it with changes, and once without; say where they part."""
        self._head()
        story = self.story
        try:
            for change, text in changes:
                changed = change(story, text)
                story = changed.story
                self._say(f"what if: {changed.said}", "bold")
        except ChangeError as error:
            fail(str(error), USAGE)
        self._say("")
        machine = Machine(self.app.functions)
        try:
            then, now = Trace(), Trace()
            before = machine.replay(replace(self.story, lenient=True), then)
            timeline = Timeline(self._console, story, now, verbose=self._verbose)
            told = machine.replay(story, timeline, silent=not self._verbose)
        finally:
            machine.close()
        self._say("")
        difference = first_difference(then, now)
        self._say(f"first difference: {difference or 'none; every step is asked for as before'}")
        self._say(f"then: {end_of(story.run, facts_in(story.run))}")
        recorded = recorded_end(self.story)
        if before.end is not None and recorded is not None and not _same(recorded, before):
            self._say(f"(without the change, this code {end_text(before.end)})", MILD)
        self._now(told, "now: it")
        return 0

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style), soft_wrap=True)


def _same(then: object, told: Told) -> bool:
    """Say whether code ended as the run did."""
    end = told.end
    if end is None or then is None:
        return False
    if isinstance(end, RunReturned):
        data = getattr(then, "data", None)
        return isinstance(data, bytes) and json.loads(data) == json.loads(end.data)
    error = getattr(then, "error", None)
    return error is not None and (error.name, error.message) == (end.error.name, end.error.message)
