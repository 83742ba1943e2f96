"""Recordings of runs out of a running engine, by its index of runs."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from stepfold_engine.errors import CorruptLogError, RequestRefusedError
from stepfold_engine.history import History, NoHistory, RunFilter, RunView
from stepfold_engine.recordings import facts_in, invoked_by, recorded
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.runfile import ExportedRun

NOWHERE = (404, 410)
"""How a run is refused that is not in the log, or is no longer."""

KEY_CHARS = 16
"""How many characters at the end of a run's id are its key."""

Recall = Callable[[str, RequestRefusedError], Awaitable[ExportedRun]]
"""Returns the run that is named so, whose journal is gone; raises the refusal if it cannot."""

FOUND_MAX = 500
"""How many runs one answer holds, at most."""


async def recording_of(history: History, view: RunView, *, asked: bool = True) -> ExportedRun:
    """Return a run's recording: its whole history, as far as it is confirmed.

    Raises:
        RequestRefusedError: its journal is no longer kept, or damaged (410), or its partition is
            elsewhere.
        LogError: its journal cannot be read now.
    """
    try:
        return recorded(await history.timeline(view), asked=asked)
    except (CorruptLogError, LookupError) as error:
        text = f"run {ulid_text(view.id)} cannot be exported: {error}"
        raise RequestRefusedError(410, text) from error


async def related_to(
    history: History | NoHistory, run: ExportedRun, partitions: int, recall: Recall
) -> list[ExportedRun]:
    """Return recordings of the runs that a run invoked, and of those that they invoked.

    Those that are found nowhere are left out.

    Raises:
        RequestRefusedError: see ``recording_of``.
        LogError: see ``recording_of``.
    """
    found: list[ExportedRun] = []
    left = [run]
    while left:
        one = left.pop()
        for _, _, key in invoked_by(facts_in(one), partitions):
            try:
                left.append(await _invoked(history, key, recall))
            except RequestRefusedError as error:
                if error.status not in NOWHERE:
                    raise
                continue
            found.append(left[-1])
    return found


async def _invoked(history: History | NoHistory, key: bytes, recall: Recall) -> ExportedRun:
    name = ulid_text(bytes(16 - len(key)) + key)[-KEY_CHARS:]
    refusal = RequestRefusedError(404, f"no run {name}")
    if isinstance(history, History):
        view = await history.with_key(key)
        try:
            if view is not None:
                return await recording_of(history, view, asked=False)
        except RequestRefusedError as error:
            refusal = error
    return replace(await recall(name, refusal), asked=False)


async def some_of(history: History, asked: RunFilter) -> tuple[list[ExportedRun], bytes]:
    """Return recordings of runs, newest first, and where the next ones begin (b"" if nowhere).

    Runs whose history is no longer whole are left out.

    Raises:
        LogError: a journal cannot be read now.
    """
    views = await history.runs(asked)
    runs: list[ExportedRun] = []
    for view in views:
        try:
            runs.append(await recording_of(history, view))
        except RequestRefusedError as error:
            if error.status != 410:
                raise
    return runs, views[-1].id if len(views) == asked.limit else b""
