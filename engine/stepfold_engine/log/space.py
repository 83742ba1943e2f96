"""Space for the embedded log: a reserve for the journal, and when there is room again."""

import os
import sqlite3
import time
from pathlib import Path

CHECK_EVERY_S = 1.0
ROOM_SHARE = 0.95
"""A log with a limit goes on when less than this share of it is used."""


class Space:
    """Watches the disk, and the log's own limit.

    When space runs out, events are refused and the journal may use the reserve: a file that
    takes up room until it is needed, or pages beyond the limit.
    """

    def __init__(
        self, folder: Path, db: sqlite3.Connection, bytes_max: int | None, reserve_bytes: int
    ) -> None:
        self._folder, self._db = folder, db
        self._bytes_max, self._reserve_bytes = bytes_max, reserve_bytes
        self._page_bytes: int = db.execute("PRAGMA page_size").fetchone()[0]
        self._reserve = folder / "reserve"
        self._checked_s = 0.0
        self.full = False
        self._limit(bytes_max)
        self._keep_reserve()

    def _limit(self, bytes_max: int | None) -> None:
        pages = 0x7FFFFFFE if bytes_max is None else max(1, bytes_max // self._page_bytes)
        self._db.execute(f"PRAGMA max_page_count={pages}")

    def _keep_reserve(self) -> None:
        """Take up the reserve's room on the disk, or less if the disk is small."""
        size = min(self._reserve_bytes, self.free_bytes() // 4)
        file = os.open(self._reserve, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(file).st_size < size:
                os.posix_fallocate(file, 0, size)
        except OSError:
            os.ftruncate(file, 0)
        finally:
            os.close(file)

    def free_bytes(self) -> int:
        """Return how much room the disk has for us."""
        stat = os.statvfs(self._folder)
        return stat.f_bavail * stat.f_frsize

    def run_out(self) -> None:
        """Space has run out: open the reserve, for the journal only."""
        self.full = True
        self._checked_s = time.monotonic()
        os.truncate(self._reserve, 0)
        if self._bytes_max is not None:
            self._limit(self._bytes_max + self._reserve_bytes)

    def look(self) -> None:
        """See, at most once a second, whether there is room again."""
        now_s = time.monotonic()
        if not self.full or now_s - self._checked_s < CHECK_EVERY_S:
            return
        self._checked_s = now_s
        if self.has_room():
            self.full = False
            self._limit(self._bytes_max)
            self._keep_reserve()

    def has_room(self) -> bool:
        """Say whether disk and limit leave room for more than the reserve."""
        if self.free_bytes() < 2 * min(self._reserve_bytes, 8 << 20):
            return False
        return self._bytes_max is None or self.used_bytes() < ROOM_SHARE * self._bytes_max

    def used_bytes(self) -> int:
        """Return how much of the file holds records."""
        pages: int = self._db.execute("PRAGMA page_count").fetchone()[0]
        free: int = self._db.execute("PRAGMA freelist_count").fetchone()[0]
        return (pages - free) * self._page_bytes

    def describe(self) -> str:
        """Say in words what is missing and what to do."""
        if self._bytes_max is not None and self.free_bytes() > self._reserve_bytes:
            return (
                f"the log in {self._folder} has reached its limit of {self._bytes_max} bytes;"
                " raise the limit, or shorten how long history is kept"
            )
        return (
            f"no space left on the disk of {self._folder} ({self.free_bytes()} bytes free);"
            " make room: it goes on by itself"
        )
