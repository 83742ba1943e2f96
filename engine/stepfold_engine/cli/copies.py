"""``stepfold log``: a log on Kafka, copied to look at and to debug with; or moved into."""

import asyncio
from collections.abc import Sequence
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
from stepfold_engine.cli.moves import move
from stepfold_engine.clock import SystemClock
from stepfold_engine.errors import EngineError, LogSettingError
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import JOURNAL
from stepfold_engine.log.copying import Copied, copy_log

program = typer.Typer(
    help="Copy a log from Kafka, or move one there.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Into = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Where the copy is to lie; it must hold no log.")
]


@program.callback()
def _common() -> None:
    pass


@program.command()
def copy(
    folder: Into,
    namespace: Namespace,
    *,
    kafka: Servers = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    config: Config = None,
    given: Given = None,
) -> None:
    """Copy a namespace's topics on Kafka into a folder, offsets and all; Kafka is only read.

    The copy is an embedded log: stepfold sql --data asks it. stepfold dev --data would run its
    unfinished runs again, with everything that their steps do in the world.

    For example:

      stepfold log copy ./copy --kafka kafka-1:9092 --namespace shop
    """
    try:
        properties = properties_from(kafka, config, given)
        asyncio.run(_copy(folder, properties, TopicNames(namespace, events_prefix)))
    except LogSettingError as error:
        fail(str(error), USAGE)
    except EngineError as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("stopped; there is no copy", 130)


async def _copy(folder: Path, properties: ClientProperties, names: TopicNames) -> None:
    def tell(topic: str, copied: Sequence[Copied]) -> None:
        records, missing = sum(c.records for c in copied), sum(c.missing for c in copied)
        holes = f"; {missing:,} offsets are holes" if missing else ""
        typer.echo(f"{names.of(topic)}: {len(copied)} partitions, {records:,} records{holes}")

    log = await KafkaLog.connect(properties, names, SystemClock().now_ms)
    try:
        done = await copy_log(log, folder, tell)
        grown = [
            number
            for number in range(await log.partitions(JOURNAL))
            if (await log.bounds(JOURNAL, number)).end > done[JOURNAL][number].bounds.end
        ]
    finally:
        await log.close()
    if grown:
        text = f"{names.of(JOURNAL)} was written meanwhile; each partition is as it was at its time"
        typer.echo(text, err=True)
    typer.echo(f"copied to {folder}")


program.command()(move)
