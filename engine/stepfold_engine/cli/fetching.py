"""Runs for commands that look at history: out of files, a running engine, a folder, or Kafka."""

import asyncio
import io
import os
import urllib.parse
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from stepfold_engine.cli.asking import OURS, quoted
from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.cli.kafkaoptions import EVENTS_PREFIX
from stepfold_engine.cli.remote import RefusedError, Remote
from stepfold_engine.errors import EngineError, LogSettingError, RequestRefusedError
from stepfold_engine.exporting.folders import FolderJournals
from stepfold_engine.exporting.journals import Journals, Selection, find_run, select_runs
from stepfold_engine.history.views import LIVE_STATUSES
from stepfold_engine.log.base import JOURNAL
from stepfold_engine.wire.recalled import GONE, Recalled
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.ids import ULID_CHARS, parse_ulid, ulid_text
from stepfold_schemas.runfile import ExportedRun, RunFile

_T = TypeVar("_T")

ENDING = ".avro"

Data = Annotated[
    Path | None,
    typer.Option("--data", help="A log's folder, or a copy of one: no engine is asked."),
]
Kafka = Annotated[
    str, typer.Option("--kafka", metavar="HOST:PORT", help="Read from Kafka directly.")
]
Namespace = Annotated[
    str, typer.Option("--namespace", help="With --kafka: what the app's topics are named by.")
]


@dataclass(frozen=True, slots=True)
class Where:
    """Where runs are to be read: Kafka, if given; else a folder; else an engine."""

    url: str
    data: Path | None = None
    kafka: str = ""
    namespace: str = ""
    events_prefix: str = EVENTS_PREFIX


def runs_of(reference: str, where: Where, *, related: bool = False) -> RunFile:
    """Return the run that a file holds, or that an id means; what is refused ends the command."""
    if reference.endswith(ENDING) or Path(reference).is_file():
        return read_file(Path(reference))
    quoted(reference)
    if where.kafka or where.data is not None:
        return RunFile(_asked(_from_log(reference.upper(), where, related=related)))
    path = f"{OURS}/runs/{urllib.parse.quote(reference)}/export"
    query = {"related": "true"} if related else None
    try:
        data, _ = Remote(where.url).download(path, query=query)
    except RefusedError as error:
        fail(str(error), USAGE if error.status == 400 else FAILED)
    return read_bytes(data, where.url)


def many_runs(
    where: Where, wanted: Selection, progress: Callable[[int, int], None]
) -> list[ExportedRun]:
    """Return all runs that are meant, with their histories; what is refused ends the command."""
    if where.kafka or where.data is not None:
        return _asked(_many_from_log(where, wanted, progress))
    remote, found = Remote(where.url), dict[bytes, ExportedRun]()
    try:
        _add_pages(remote, found, {"function": wanted.function, "since_ms": wanted.since_ms})
        if wanted.since_ms:
            # What began before, and goes on, is what a deploy changes under.
            for status in LIVE_STATUSES:
                _add_pages(remote, found, {"function": wanted.function, "status": status})
    except RefusedError as error:
        fail(str(error), USAGE if error.status == 400 else FAILED)
    return [run for run in found.values() if wanted.holds(run)]


def _add_pages(remote: Remote, found: dict[bytes, ExportedRun], query: dict[str, object]) -> None:
    before = ""
    while True:
        path = f"{OURS}/export"
        data, headers = remote.download(path, query={**query, "limit": 500, "before": before})
        if data:
            found |= {run.run: run for run in read_bytes(data, remote.url).runs}
        before = headers.get("x-stepfold-next", "")
        if not before:
            return


async def _many_from_log(
    where: Where, wanted: Selection, progress: Callable[[int, int], None]
) -> list[ExportedRun]:
    log, close = await _opened(where)
    try:
        found: list[ExportedRun] = []
        for partition in range(await log.partitions(JOURNAL)):
            found += await select_runs(log, partition, wanted, progress)
        return found
    finally:
        await close()


def read_file(path: Path) -> RunFile:
    """Return what a run file holds; what cannot be read ends the command."""
    try:
        with path.open("rb") as source:
            return codec.read_runs(source)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror or error}", USAGE)
    except UndecodableError as error:
        fail(f"{path}: {error}", FAILED)


def read_bytes(data: bytes, source: str) -> RunFile:
    """Return what the bytes of a run file hold."""
    try:
        return codec.read_runs(io.BytesIO(data))
    except UndecodableError as error:
        fail(f"{source}: {error}", FAILED)


def write_file(path: Path, file: RunFile) -> int:
    """Write a run file, whole or not at all; return its size."""
    out = io.BytesIO()
    codec.write_runs(out, file)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(out.getvalue())
        beside.replace(path)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror or error}", FAILED)
    finally:
        beside.unlink(missing_ok=True)
    return len(out.getvalue())


async def _from_log(name: str, where: Where, *, related: bool) -> list[ExportedRun]:
    log, close = await _opened(where)
    try:
        whole = name if len(name) == ULID_CHARS else ulid_text(await _named(log, name))
        return await find_run(log, parse_ulid(whole), related=related)
    except RequestRefusedError as error:
        if where.data is None or error.status not in GONE:
            raise
        return [await Recalled(_Beside(where.data)).run(name, error)]
    finally:
        await close()


class _Beside:
    """The tables in a folder, asked without an engine (``wire.sql.Tables``)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def ask(self, asked: Mapping[str, object]) -> tuple[dict[str, Any], bytes]:
        """Return the answer to a question about recordings."""
        try:
            from stepfold_projections.asking import rows_in  # noqa: PLC0415 - slow
            from stepfold_projections.queries import QueryError  # noqa: PLC0415 - as above
        except ModuleNotFoundError as error:
            text = "this needs DuckDB: pip install 'stepfold[engine,sql]'"
            raise RequestRefusedError(501, text) from error
        try:
            return {}, rows_in(self._folder, str(asked["sql"]))
        except QueryError as error:
            raise RequestRefusedError(error.status, str(error)) from error


async def _named(log: Journals, name: str) -> bytes:
    """Return the id of the one run that a part of an id means."""
    found: list[ExportedRun] = []
    for partition in range(await log.partitions(JOURNAL)):
        found += await select_runs(log, partition, Selection(name=name))
    if not found:
        raise RequestRefusedError(404, f"no run {name}")
    if len(found) > 1:
        names = ", ".join(ulid_text(run.run) for run in found[:3])
        fail(f"several runs are meant by {name}: {names}", FAILED)
    return found[0].run


async def _opened(where: Where) -> tuple[Journals, Any]:
    if not where.kafka:
        assert where.data is not None, "one of the two was given"
        folder = FolderJournals(where.data)

        async def close() -> None:
            folder.close()

        return folder, close
    try:
        from stepfold_engine.cli.clusterlog import connected  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "aiokafka":
            raise
        fail("--kafka needs Kafka's client: pip install 'stepfold[engine,kafka]'", USAGE)
    if not where.namespace:
        fail("--kafka needs --namespace: what the topics of the app are named by", USAGE)
    kafka = await connected(where.kafka, where.namespace, where.events_prefix)
    return kafka, kafka.close


def _asked(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(work)
    except LogSettingError as error:
        fail(str(error), USAGE)
    except EngineError as error:
        fail(str(error), FAILED)
