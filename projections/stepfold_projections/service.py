"""The projector's process: keeps the tables up to date, and answers questions on a socket.

It may die, hang or be stopped at any time: the engine does not notice, and the next one goes on
where the tables stand. It ends when its standard input ends, that is, with the engine's process.

Who has no tables because another process keeps them passes questions on to that one (``keeper``),
and takes its place when it is gone.
"""

import json
import logging
import os
import shutil
import socket
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

from stepfold_projections import keeper
from stepfold_projections.archive import Retention, archive, forget
from stepfold_projections.asking import moment
from stepfold_projections.keeper import BODY, HEAD, received
from stepfold_projections.keeping import rebuild
from stepfold_projections.output import plain, rows_of, written
from stepfold_projections.projector import BATCH_RECORDS, Projector
from stepfold_projections.publish import publish
from stepfold_projections.queries import SECONDS_MAX, Answer, Desk, Limits, QueryError
from stepfold_projections.recordings import Recorder
from stepfold_projections.source import Source, SourceError, UnreachableError
from stepfold_projections.store import BusyError, OtherVersionError, Store, open_stale

_log = logging.getLogger("stepfold")

REQUEST_BYTES_MAX = 1 << 20
WAIT_S = 0.5
PACE_S = 0.2
"""The pause after a transaction that took in all there was. A transaction has a price of its own,
so without it the projector would take a core, and rows would be hardly fresher."""

RETRY_S = 2.0
TIDY_EVERY_S = 3_600.0
NICE = 5
"""The engine goes first."""


class Service:
    """Keeps one folder's tables and answers."""

    def __init__(
        self,
        path: Path,
        source: Callable[[], Source],
        limits: Limits | None,
        recorder: Callable[[Source], Recorder] | None = None,
    ) -> None:
        self._path, self._open_source, self._limits = path, source, limits or Limits()
        self._recorder = recorder
        self._desk: Desk | None = None
        self._store: Store | None = None
        self._keep_for = Retention()
        self._stop = threading.Event()
        self._address = self._warned = ""
        self._why = "the tables are being opened; ask again in a moment"

    def run(self, address: str) -> None:
        """Serve until standard input ends."""
        os.nice(NICE)
        self._address = address
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(64)
        for work in (lambda: self._until_orphaned(address), lambda: self._accept(listener)):
            threading.Thread(target=work, daemon=True).start()
        self._keep_on()

    def _keep_on(self) -> None:
        while not self._stop.is_set():
            try:
                self._keep()
            except (duckdb.Error, BusyError, SourceError, OSError) as error:
                self._warn(f"the tables are behind: {error}")
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
        """Keep the tables open, and follow the log whenever it can be reached."""
        store = self._opened()
        if store is None:
            return
        try:
            self._desk, self._store = Desk(store.db, self._limits, store.older), store
            keeper.announce(self._path, self._address)
            for left in self._path.parent.glob("copy-*"):
                left.unlink(missing_ok=True)
            while not self._stop.is_set():
                try:
                    self._follow(store)
                except UnreachableError as error:
                    self._warn(f"the tables stand still: {error}")
                    self._stop.wait(RETRY_S)
        finally:
            self._close_desk()
            store.close()

    def _follow(self, store: Store) -> None:
        source = self._open_source()
        try:
            projector = Projector(source, store)
            tidied_s = -TIDY_EVERY_S
            while not self._stop.is_set():
                if taken := projector.step():
                    self._warned = ""
                    if taken < BATCH_RECORDS:
                        self._stop.wait(PACE_S)
                    continue
                if time.monotonic() - tidied_s > TIDY_EVERY_S:
                    self._tidy(store, source)
                    tidied_s = time.monotonic()
                source.wait(WAIT_S)
        finally:
            source.close()

    def _warn(self, text: str) -> None:
        """Say what is wrong, once as long as it stays so."""
        if text != self._warned:
            _log.warning("%s", text)
            self._warned = text

    def _tidy(self, store: Store, source: Source) -> None:
        """Write days that are over as Parquet, and remove what is older than it is kept."""
        now = datetime.now(UTC).replace(tzinfo=None)
        archive(store, now, self._recorder(source) if self._recorder is not None else None)
        store.shorten_sums()
        forget(store, self._keep_for, now)

    def _opened(self) -> Store | None:
        """Open the tables; None if told to stop. Old ones answer until they are made anew."""
        try:
            return Store(self._path)
        except OtherVersionError as error:
            _log.info("the tables are made anew: %s", error)
            with open_stale(self._path) as old:
                self._desk = Desk(old, self._limits)
                keeper.announce(self._path, self._address)
                try:
                    self._rebuild(old)
                finally:
                    self._close_desk()
        except duckdb.IOException:
            raise
        except duckdb.Error as error:
            _log.warning("the tables are damaged, and made anew: %s", error)
            self._rebuild()
        return None if self._stop.is_set() else Store(self._path)

    def _close_desk(self) -> None:
        """Let nobody use the tables any more: DuckDB would not open the file's successor."""
        desk, self._desk, self._store = self._desk, None, None
        if desk is not None:
            desk.close()

    def _rebuild(self, old: duckdb.DuckDBPyConnection | None = None) -> None:
        source = self._open_source()
        try:
            rebuild(self._path, source, stopping=self._stop.is_set, old=old)
        finally:
            source.close()

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
        (size,) = HEAD.unpack(received(connection, HEAD.size))
        if size > REQUEST_BYTES_MAX:
            return {"status": 413, "error": "the request is too large"}, b""
        asked = json.loads(received(connection, size))
        try:
            return self._answered(asked)
        except QueryError as error:
            return {"status": error.status, "error": str(error)}, b""
        except Exception as error:  # noqa: BLE001 - whoever asks is told
            return {"status": 500, "error": f"{type(error).__name__}: {error}"}, b""

    def _answered(self, asked: dict[str, Any]) -> tuple[dict[str, object], bytes]:
        desk = self._desk
        if desk is None:
            other = keeper.address_of(self._path)
            if other in ("", self._address):
                raise QueryError(self._why, 503)
            return keeper.ask(other, asked)
        if asked.get("copy"):
            with desk.turn(SECONDS_MAX):
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
