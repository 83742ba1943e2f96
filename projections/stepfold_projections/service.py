"""The projector's process: keeps the tables up to date, and answers questions on a socket.

It may die, hang or be stopped at any time: the engine does not notice, and the next one goes on
where the tables stand. It ends when its standard input ends, that is, with the engine's process.

A request is a length (4 bytes) and a JSON object; the reply a length and a JSON object, a length
(8 bytes) and what was asked for.
"""

import json
import logging
import os
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb

from stepfold_projections.archive import Retention, archive, forget
from stepfold_projections.asking import moment
from stepfold_projections.keeping import rebuild
from stepfold_projections.output import plain, rows_of, written
from stepfold_projections.projector import Projector
from stepfold_projections.publish import publish
from stepfold_projections.queries import Answer, Desk, Limits, QueryError
from stepfold_projections.source import Source, SourceError
from stepfold_projections.store import BusyError, OtherVersionError, Store, open_stale

_log = logging.getLogger("stepfold")

HEAD = struct.Struct(">I")
BODY = struct.Struct(">Q")
REQUEST_BYTES_MAX = 1 << 20
WAIT_S = 0.5
RETRY_S = 2.0
TIDY_EVERY_S = 3_600.0
NICE = 5
"""The engine goes first."""


class Service:
    """Keeps one folder's tables and answers."""

    def __init__(self, path: Path, source: Callable[[], Source], limits: Limits | None) -> None:
        self._path, self._open_source, self._limits = path, source, limits or Limits()
        self._desk: Desk | None = None
        self._store: Store | None = None
        self._keep_for = Retention()
        self._stop = threading.Event()
        self._why = "the tables are being opened; ask again in a moment"

    def run(self, address: str) -> None:
        """Serve until standard input ends."""
        os.nice(NICE)
        for left in self._path.parent.glob("copy-*"):
            left.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(64)
        for work in (lambda: self._until_orphaned(address), lambda: self._accept(listener)):
            threading.Thread(target=work, daemon=True).start()
        while not self._stop.is_set():
            try:
                self._keep()
            except (duckdb.Error, BusyError, SourceError, OSError) as error:
                _log.warning("the tables are behind: %s", error)
                self._why = f"the tables cannot be kept at the moment: {error}"
                self._stop.wait(RETRY_S)

    def _until_orphaned(self, address: str) -> None:
        sys.stdin.buffer.read()
        shutil.rmtree(Path(address).parent, ignore_errors=True)
        self._stop.set()
        # What is not committed is read again.
        time.sleep(1.0)
        os._exit(0)

    def _keep(self) -> None:
        source = self._open_source()
        store = self._opened(source)
        try:
            self._desk, self._store = Desk(store.db, self._limits, store.older), store
            projector = Projector(source, store)
            tidied_s = -TIDY_EVERY_S
            while not self._stop.is_set():
                if projector.step():
                    continue
                if time.monotonic() - tidied_s > TIDY_EVERY_S:
                    self._tidy(store)
                    tidied_s = time.monotonic()
                source.wait(WAIT_S)
        finally:
            self._desk = self._store = None
            store.close()
            source.close()

    def _tidy(self, store: Store) -> None:
        """Write days that are over as Parquet, and remove what is older than it is kept."""
        now = datetime.now(UTC).replace(tzinfo=None)
        archive(store, now)
        forget(store, self._keep_for, now)

    def _opened(self, source: Source) -> Store:
        """Open the tables. Those of another version answer until they are made anew."""
        try:
            return Store(self._path)
        except OtherVersionError as error:
            _log.info("the tables are made anew: %s", error)
            with open_stale(self._path) as old:
                self._desk = Desk(old, self._limits)
                self._rebuild(source, old)
                self._desk = None
        except duckdb.IOException:
            raise
        except duckdb.Error as error:
            _log.warning("the tables are damaged, and made anew: %s", error)
            self._rebuild(source)
        return Store(self._path)

    def _rebuild(self, source: Source, old: duckdb.DuckDBPyConnection | None = None) -> None:
        rebuild(self._path, source, stopping=self._stop.is_set, old=old)

    # Answering.

    def _accept(self, listener: socket.socket) -> None:
        while True:
            with suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(60.0)
            head, body = self._reply(connection)
            said = json.dumps(head, default=plain).encode()
            connection.sendall(HEAD.pack(len(said)) + said + BODY.pack(len(body)))
            connection.sendall(body)

    def _reply(self, connection: socket.socket) -> tuple[dict[str, object], bytes]:
        (size,) = HEAD.unpack(_received(connection, HEAD.size))
        if size > REQUEST_BYTES_MAX:
            return {"status": 413, "error": "the request is too large"}, b""
        asked = json.loads(_received(connection, size))
        try:
            return self._answered(asked)
        except QueryError as error:
            return {"status": error.status, "error": str(error)}, b""
        except Exception as error:  # noqa: BLE001 - whoever asks is told
            return {"status": 500, "error": f"{type(error).__name__}: {error}"}, b""

    def _answered(self, asked: dict[str, Any]) -> tuple[dict[str, object], bytes]:
        desk = self._desk
        if desk is None:
            raise QueryError(self._why, 503)
        if asked.get("copy"):
            return self._copied(), b""
        as_of = moment(str(asked["as_of"])) if asked.get("as_of") else None
        answer = desk.ask(str(asked["sql"]), as_of, float(asked.get("seconds") or 0.0))
        head: dict[str, object] = {
            "status": 200,
            "columns": answer.table.column_names,
            "rows": answer.table.num_rows,
            "cut": answer.cut,
            "seconds": round(answer.seconds, 3),
        }
        body = written(answer.table, "arrow") if asked.get("arrow") else _as_json(head, answer)
        return head, body

    def _copied(self) -> dict[str, object]:
        """Write a copy of the tables beside them, for who asks to fetch and remove."""
        store = self._store
        if store is None:
            raise QueryError(self._why, 503)
        path = self._path.with_name(f"copy-{uuid4().hex}.duckdb")
        return {"status": 200, "bytes": publish(store, path), "path": str(path)}


def _as_json(head: dict[str, object], answer: Answer) -> bytes:
    types = [str(field.type) for field in answer.table.schema]
    body = {"data": rows_of(answer.table), "types": types} | head
    return json.dumps(body, ensure_ascii=False, default=plain).encode()


def _received(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the other side is gone")
        data += part
    return bytes(data)
