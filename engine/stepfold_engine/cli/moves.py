"""``stepfold log move``: who began with one file goes on on Kafka."""

import asyncio
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from stepfold_engine.cli.cluster import (
    EVENTS_PREFIX,
    Config,
    EventsPrefix,
    Given,
    Namespace,
    Servers,
    properties_from,
)
from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.clock import SystemClock
from stepfold_engine.errors import EngineError, LogSettingError
from stepfold_engine.kafka.connection import connected_admin
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import EVENTS, JOURNAL
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.log.moved import Mark, mark_of, set_mark
from stepfold_engine.matching import CelMatching
from stepfold_engine.moving import Moving, Survey, check, survey
from stepfold_engine.moving import move as move_log
from stepfold_engine.settings import Settings

From = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the embedded log lies.")]


class FolderMarks:
    """The mark of the log in a folder (``moving.Marks``)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self) -> Mark | None:
        """Return the mark, None if there is none."""
        return mark_of(self._folder)

    def set(self, mark: Mark) -> None:
        """Set it, durably."""
        set_mark(self._folder, mark)


def move(  # noqa: PLR0913 - the options of a command
    folder: From,
    namespace: Namespace,
    *,
    kafka: Servers = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be moved; write nothing.")
    ] = False,
    config: Config = None,
    given: Given = None,
) -> None:
    """Move what lives in a folder's log to a namespace on Kafka that was never used.

    Unfinished runs go on there with all that they did and wait for. Stop stepfold dev first, and
    make the topics with stepfold topics create. A move that was killed is run again. The folder
    keeps its history, to be asked by stepfold sql --data; stepfold dev refuses it from then on.

    For example:

      stepfold log move .stepfold --kafka kafka-1:9092 --namespace shop --dry-run

      stepfold log move .stepfold --kafka kafka-1:9092 --namespace shop
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if not (folder / "log.db").exists():
        fail(f"there is no log in {folder}", USAGE)
    try:
        properties = properties_from(kafka, config, given)
        asyncio.run(_move(folder, properties, TopicNames(namespace, events_prefix), dry=dry_run))
    except LogSettingError as error:
        fail(str(error), USAGE)
    except EngineError as error:
        fail(f"{folder} was not moved: {error}", FAILED)
    except KeyboardInterrupt:
        fail("stopped; run it again to go on", 130)


async def _move(
    folder: Path, properties: ClientProperties, names: TopicNames, *, dry: bool
) -> None:
    clock = SystemClock()
    source = EmbeddedLog.open(folder, None, clock.now_ms, although_moved=True)
    try:
        target = await KafkaLog.connect(properties, names, clock.now_ms)
        try:
            to = f"namespace {names.namespace} of Kafka cluster {await _cluster(properties)}"
            marks, matching = FolderMarks(folder), CelMatching()
            moving = Moving(source, target, marks, to, clock, matching, Settings())
            if dry:
                goes_on = await check(moving)
                _tell(folder, await survey(source))
                count = await target.partitions(JOURNAL)
                how = "the move into it goes on" if goes_on else "it is unused"
                typer.echo(f"{to}: {count} partitions, {how}")
                typer.echo("nothing was moved: this was a dry run")
                return
            found = await move_log(moving)
        finally:
            await target.close()
    finally:
        await source.close()
    _tell(folder, found)
    since = datetime.fromtimestamp(found.idle_ms / 1000, UTC).isoformat(" ", "milliseconds")
    typer.echo(f"moved to {to}; {names.of(EVENTS)} is read from {since} on")


async def _cluster(properties: ClientProperties) -> str:
    admin = await connected_admin(properties)
    try:
        return await admin.cluster()
    finally:
        await admin.close()


def _tell(folder: Path, found: Survey) -> None:
    total = sum(found.runs.values())
    stopped = f", {found.stopped} of them stopped" if found.stopped else ""
    typer.echo(f"{folder}: {total:,} unfinished runs{stopped}; {found.partitions} partitions")
    for function, count in found.runs.items():
        typer.echo(f"  {function}: {count:,}")
    typer.echo(
        f"  signals waited for: {found.signals:,}; ids remembered: {found.ids:,};"
        f" requests answered: {found.requests:,}"
    )
    for what in found.undecided:
        typer.echo(f"  {what}; the move decides that first")
    if found.letters:
        typer.echo(f"  {found.letters:,} dead letters stay in the folder")
