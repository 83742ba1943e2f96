"""``stepfold replay-check``: do runs fit the code at hand? For CI, before a deploy."""

import os
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from stepfold_engine.cli.asking import since_ms
from stepfold_engine.cli.bars import bar
from stepfold_engine.cli.checking import check
from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.cli.fetching import (
    Data,
    Kafka,
    Namespace,
    Where,
    many_runs,
    read_file,
)
from stepfold_engine.cli.kafkaoptions import EVENTS_PREFIX, EventsPrefix
from stepfold_engine.cli.loading import LoadError, NoSuchFileError, parse_target
from stepfold_engine.cli.remote import URL_DEFAULT, Url
from stepfold_engine.cli.tables import make_console
from stepfold_engine.cli.wording import BAD, MILD, OK
from stepfold_engine.exporting.journals import Selection
from stepfold_engine.replaying.summaries import WORDS, fails, grouped, junit, markdown
from stepfold_engine.replaying.verdicts import SAME, Verdict
from stepfold_schemas.ids import key_of
from stepfold_schemas.runfile import STATUSES, UNFINISHED, ExportedRun

SUMMARY, ACTIONS = "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"

CodeFile = Annotated[
    str,
    typer.Argument(metavar="FILE[:APP]", help="The file with the App, as it is now."),
]
Since = Annotated[
    str, typer.Option("--since", help="Runs of the last 90m, 24h, 7d; and all unfinished.")
]
Sample = Annotated[
    int,
    typer.Option("--sample", min=0, help="So many of each function; unfinished first."),
]
Status = Annotated[str, typer.Option("--status", "-s", help=f"Some of: {', '.join(STATUSES)}.")]
Files = Annotated[
    list[Path] | None, typer.Option("--runs", help="A file of runs instead. May be repeated.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail also for other ends and new steps.")]
Junit = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")]
Processes = Annotated[
    int, typer.Option("--processes", min=0, help="How many; as many as processors if 0.")
]


def replay_check(  # noqa: PLR0913 - the options of a command
    target: CodeFile,
    *,
    since: Since = "",
    function: Annotated[str, typer.Option("--function", "-f", help="A function's full id.")] = "",
    sample: Sample = 0,
    status: Status = "",
    runs: Files = None,
    strict: Strict = False,
    junit_file: Junit = None,
    processes: Processes = 0,
    data: Data = None,
    kafka: Kafka = "",
    namespace: Namespace = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    url: Url = URL_DEFAULT,
) -> None:
    """Replay finished and unfinished runs against the code at hand; fail if one would not fit.

    For each function it says: same, only new steps at the end, or diverges, and where. Exit code 1
    if a run would diverge, or its code would raise where it did not.

    For example:

      stepfold replay-check app.py --since 24h

      stepfold replay-check app.py --data ./copy --junit replay.xml
    """
    statuses = _statuses(status)
    wanted = Selection(function, since_ms(since), statuses)
    try:
        parsed = parse_target(target)
    except NoSuchFileError as error:
        fail(str(error), USAGE)
    began_s = time.monotonic()
    found = _runs(runs, wanted, Where(url, data, kafka, namespace, events_prefix))
    chosen = sampled(found, sample) if sample else found
    try:
        with bar("replaying") as shown:
            verdicts = check(parsed, chosen, processes or os.cpu_count() or 1, shown)
    except LoadError as error:
        fail(str(error), FAILED)
    except BrokenProcessPool:
        fail("code outside steps ended the process that replayed it (os._exit, a crash)", FAILED)
    seconds = time.monotonic() - began_s
    _tell(make_console(), verdicts, seconds)
    _write(verdicts, seconds, junit_file)
    raise typer.Exit(FAILED if fails(verdicts, strict=strict) else 0)


def _statuses(text: str) -> tuple[str, ...]:
    statuses = tuple(part.strip() for part in text.split(",") if part.strip())
    for one in statuses:
        if one not in STATUSES:
            fail(f"--status {one}: one of {', '.join(STATUSES)}", USAGE)
    return statuses


def _runs(files: list[Path] | None, wanted: Selection, where: Where) -> list[ExportedRun]:
    if files:
        found = [run for path in files for run in read_file(path).runs]
        return [
            run for run in found if wanted.may_hold(run.run, run.function) and wanted.holds(run)
        ]
    with bar("reading histories") as shown:
        return many_runs(where, wanted, shown)


def sampled(runs: Sequence[ExportedRun], count: int) -> list[ExportedRun]:
    """Return so many runs of each function: unfinished ones first, then any, always the same."""
    by_function: dict[str, list[ExportedRun]] = {}
    for run in runs:
        by_function.setdefault(run.function, []).append(run)
    kept: list[ExportedRun] = []
    for of in by_function.values():
        # Keys are hashes: their order has nothing to do with what the runs are about.
        of.sort(key=lambda run: (run.status != UNFINISHED, key_of(run.run)[2:]))
        kept += of[:count]
    return kept


def _tell(console: Console, verdicts: Sequence[Verdict], seconds: float) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    if not verdicts:
        say("no run is meant: nothing was checked", BAD)
        return
    for function, groups in grouped(verdicts).items():
        count = sum(len(group.runs) for group in groups)
        say(f"{function}  {count:,} {'run' if count == 1 else 'runs'}", "bold")
        for group in groups:
            one = group.example
            style = BAD if one.is_bad else OK if one.verdict == SAME else ""
            goes_on = f", {group.unfinished:,} unfinished" if group.unfinished else ""
            about = "" if one.verdict == SAME else f"  {group.about}"
            say(f"  {WORDS[one.verdict]}: {len(group.runs):,}{goes_on}{about}", style)
            if one.verdict != SAME:
                say(f"    runs {group.shown}", MILD)
            if one.advice:
                say(f"    {one.advice}")
    rate = len(verdicts) / seconds if seconds else 0
    runs = "1 run" if len(verdicts) == 1 else f"{len(verdicts):,} runs"
    say(f"{runs} in {seconds:.1f} s ({rate:,.0f} a second)", MILD)


def _write(verdicts: Sequence[Verdict], seconds: float, junit_file: Path | None) -> None:
    try:
        if junit_file is not None:
            junit_file.write_bytes(junit(verdicts, seconds))
        if summary := os.environ.get(SUMMARY):
            with Path(summary).open("a") as page:
                page.write(markdown(verdicts))
    except OSError as error:
        fail(f"{error.filename} cannot be written: {error.strerror}", FAILED)
    if os.environ.get(ACTIONS) == "true":
        for groups in grouped(verdicts).values():
            for group in groups:
                if group.example.is_bad:
                    typer.echo(_annotation(group.example, group.about))


def _annotation(verdict: Verdict, about: str) -> str:
    """Return what GitHub shows beside the line of code."""
    file, _, line = verdict.place.rpartition(":")
    where = f" file={file},line={line}" if file else ""
    return f"::error{where}::{verdict.function} {WORDS[verdict.verdict]} {about}"
