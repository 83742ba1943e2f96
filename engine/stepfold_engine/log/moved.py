"""The mark of an embedded log whose live runs were moved to another one, in its own file.

They must not go on in two places: who opens such a log to run it is refused. To look at it is free.
"""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from stepfold_engine.errors import LogError
from stepfold_engine.log import tables
from stepfold_engine.log.lock import FolderLock

PREPARED = "prepared"
BEGUN = "begun"
FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Mark:
    """A move of this log.

    Attributes:
        id: names the move in the journals that it writes.
        to: where to, for people.
        phase: prepared (nothing is written there), begun (something may be), finished.
        idle_ms: when the log was last written to before the move was prepared.
        begun_ms: when the move began to write.
        partitions: of the journal there.
        positions: where events are read from there, by partition.
    """

    id: str
    to: str
    phase: str
    idle_ms: int
    begun_ms: int = 0
    partitions: int = 0
    positions: tuple[int, ...] = ()


def mark_of(folder: Path) -> Mark | None:
    """Return the mark of the log in a folder, None if it was not moved."""
    with closing(tables.connect(folder / "log.db")) as db:
        return _mark_in(db)


def forget_move(folder: Path) -> None:
    """Take the mark of the log in a folder away, if there is one.

    Raises:
        LogLockedError: another process uses the folder.
        LogError: the file cannot be written.
    """
    if (folder / "log.db").exists():
        with closing(FolderLock(folder)):
            if mark_of(folder) is not None:
                set_mark(folder, None)


def set_mark(folder: Path, mark: Mark | None) -> None:
    """Mark the log in a folder, durably, or take its mark away.

    Raises:
        LogError: the file cannot be written.
    """

    def work() -> None:
        db.execute("CREATE TABLE IF NOT EXISTS moved (mark TEXT NOT NULL)")
        db.execute("DELETE FROM moved")
        if mark is not None:
            db.execute("INSERT INTO moved VALUES (?)", (json.dumps(asdict(mark)),))

    try:
        with closing(tables.connect(folder / "log.db")) as db:
            tables.transaction(db, work)
    except sqlite3.Error as error:
        raise LogError(f"{folder} cannot be marked: {error}") from error


def refuse(db: sqlite3.Connection, folder: Path) -> None:
    """Refuse a log whose runs may go on elsewhere; forget a move that wrote nothing.

    Raises:
        LogError: it was moved, or a move of it was begun.
    """
    mark = _mark_in(db)
    if mark is None:
        return
    if mark.phase == PREPARED:
        db.execute("DELETE FROM moved")
        return
    back = "stepfold dev --take-back runs them here again"
    when = datetime.fromtimestamp(mark.begun_ms / 1000, UTC).isoformat(" ", "seconds")
    if mark.phase == FINISHED:
        text = f"{folder} was moved to {mark.to} ({when}); its runs go on there"
        raise LogError(f"{text}. {back}, too: what they do next is then done twice")
    text = f"a move of {folder} to {mark.to} was begun ({when}) and has not ended"
    raise LogError(
        f"{text}: run stepfold log move again. To give it up, delete the topics of that"
        f" namespace; {back} then"
    )


def _mark_in(db: sqlite3.Connection) -> Mark | None:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'moved'").fetchone():
        return None
    row = db.execute("SELECT mark FROM moved").fetchone()
    if row is None:
        return None
    known = json.loads(row[0])
    return Mark(**known | {"positions": tuple(known["positions"])})
