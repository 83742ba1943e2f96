"""Runs whose journal is gone, recalled from the recordings that are kept behind SQL."""

import base64
from typing import cast

from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.formats.plain import parse_json
from stepfold_engine.wire.sql import Tables
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.ids import CROCKFORD, ULID_CHARS
from stepfold_schemas.runfile import ExportedRun

ID_CHARS = frozenset(CROCKFORD)
GONE = (404, 410, 501)
"""How a run is refused that the journal, or the index of runs, does not know any more."""


class Recalled:
    """Asks who keeps the tables; knows nothing without them."""

    def __init__(self, tables: Tables | None) -> None:
        self._tables = tables

    async def run(self, name: str, refusal: RequestRefusedError) -> ExportedRun:
        """Return the run that a whole id, or its last characters, name.

        Raises:
            RequestRefusedError: ``refusal``, if there is no recording either; or several are meant.
        """
        if self._tables is None or refusal.status not in GONE or not ID_CHARS.issuperset(name):
            raise refusal
        named = "run = " if len(name) == ULID_CHARS else "run LIKE '%' || "
        sql = f"SELECT run, recording FROM recordings WHERE {named}'{name}' LIMIT 2"  # noqa: S608 - letters and digits
        try:
            _, body = await self._tables.ask({"sql": sql})
        except RequestRefusedError as error:
            text = f"{refusal}; nor can recordings be looked at: {error}"
            raise RequestRefusedError(refusal.status, text) from error
        rows = cast("dict[str, list[list[str]]]", parse_json(body))["data"]
        if not rows:
            raise refusal
        if len(rows) > 1:
            raise RequestRefusedError(409, f"several runs are meant by {name}: {rows[0][0]}, …")
        try:
            return codec.decode_run(base64.b64decode(rows[0][1]))
        except UndecodableError as error:
            raise RequestRefusedError(410, f"the recording of run {rows[0][0]}: {error}") from error
