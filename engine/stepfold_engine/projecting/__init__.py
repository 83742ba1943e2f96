"""The projector beside the engine: a process of its own, started again when it dies.

It is handed the folder, and told which log on Kafka if it is not the one there, and reads it by
itself. Whatever becomes of it, the engine only answers that there are no answers at the moment.
"""

import asyncio
import contextlib
import json
import logging
import shutil
import struct
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stepfold_engine.errors import RequestRefusedError

_log = logging.getLogger("stepfold")

MISSING = "SQL needs DuckDB: pip install 'stepfold[engine,sql]'"
NEEDED = ("duckdb", "pyarrow", "polars")
START_AFTER_S = 1.0
"""So that a program that ends at once has not started another."""

RETRY_S, RETRY_S_MAX = 1.0, 60.0
ANSWER_S = 120.0
STARTING_S = 10.0
"""How long a question waits for a projector that is being started."""

LOOK_S = 0.1
OK, NOT_NOW = 200, 503
STOP_S = 5.0
REPLY_BYTES_MAX = 1 << 30
_HEAD = struct.Struct(">I")
_BODY = struct.Struct(">Q")


def installed() -> bool:
    """Say whether what projections need is installed."""
    return all(find_spec(name) is not None for name in NEEDED)


class Projecting:
    """Keeps the projector's process, and passes questions on to it."""

    def __init__(self, folder: Path, cluster: Mapping[str, object] | None = None) -> None:
        """Keep nothing yet.

        Args:
            folder: where the tables lie, and their log, too, unless it is on Kafka.
            cluster: the client properties, namespace and events_prefix of a log on Kafka.
        """
        self._folder, self._cluster = folder, cluster
        self._address: Path | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the process while the block runs."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self._keep())
            try:
                yield
            finally:
                keeping.cancel()

    async def _keep(self) -> None:
        await asyncio.sleep(START_AFTER_S)
        wait_s = RETRY_S
        while True:
            begun_s = asyncio.get_running_loop().time()
            try:
                # A short path: sockets' names are limited. An orphan removes it, too.
                place = Path(tempfile.mkdtemp(prefix="stepfold-"))
                try:
                    await self._run(place / "sql")
                finally:
                    shutil.rmtree(place, ignore_errors=True)
            except OSError as error:
                _log.warning("the projector cannot be started: %s", error)
            lived_s = asyncio.get_running_loop().time() - begun_s
            wait_s = RETRY_S if lived_s > RETRY_S_MAX else min(wait_s * 2, RETRY_S_MAX)
            _log.warning("the projector ended; it is started again in %.0f s", wait_s)
            await asyncio.sleep(wait_s)

    async def _run(self, address: Path) -> None:
        command = (sys.executable, "-m", "stepfold_engine.projecting.process")
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
        assert process.stdin is not None
        asked = {
            "folder": str(self._folder.absolute()),
            "address": str(address),
            "cluster": self._cluster,
        }
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._address = address
        try:
            await process.wait()
        finally:
            self._address = None
            await _end(process)

    async def ask(self, asked: Mapping[str, object]) -> tuple[dict[str, Any], bytes]:
        """Pass a question on; return the reply's head and body.

        A projector that is being started is waited for.

        Raises:
            RequestRefusedError: it was refused, or there is no projector at the moment.
        """
        until_s = asyncio.get_running_loop().time() + STARTING_S
        while True:
            try:
                return await self._ask_once(asked)
            except _NotYetError as error:
                if asyncio.get_running_loop().time() > until_s:
                    raise RequestRefusedError(NOT_NOW, str(error)) from error
            await asyncio.sleep(LOOK_S)

    async def _ask_once(self, asked: Mapping[str, object]) -> tuple[dict[str, Any], bytes]:
        if self._address is None:
            raise _NotYetError("the projector is being started; ask again in a moment")
        text = "the projector does not answer; it is started again if it died"
        try:
            async with asyncio.timeout(ANSWER_S):
                head, body = await _exchange(self._address, asked)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise _NotYetError(text) from error
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise RequestRefusedError(NOT_NOW, text) from error
        if head["status"] == NOT_NOW:
            raise _NotYetError(str(head["error"]))
        if head["status"] != OK:
            raise RequestRefusedError(int(head["status"]), str(head["error"]))
        return head, body


class _NotYetError(Exception):
    """Nobody can answer yet; the message says why."""


async def _exchange(address: Path, asked: Mapping[str, object]) -> tuple[dict[str, Any], bytes]:
    reader, writer = await asyncio.open_unix_connection(str(address))
    try:
        data = json.dumps(asked).encode()
        writer.write(_HEAD.pack(len(data)) + data)
        await writer.drain()
        (size,) = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        head: dict[str, Any] = json.loads(await reader.readexactly(size))
        (size,) = _BODY.unpack(await reader.readexactly(_BODY.size))
        if size > REPLY_BYTES_MAX:
            raise ConnectionError(f"a reply of {size} bytes")
        return head, await reader.readexactly(size)
    finally:
        writer.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let the process end: its input ends; if that does not do, kill it."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.shield(asyncio.wait_for(process.wait(), STOP_S))
    except (TimeoutError, asyncio.CancelledError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
