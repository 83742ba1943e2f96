"""Loss of power, without root and without a special kernel: what was not synced is dropped.

How: ``disk.c`` is compiled and loaded into the process with LD_PRELOAD. It stands between the
program, SQLite included, and the C library, and records every write, truncation, creation and
removal in the log's folder, and when each ``fsync`` or ``fdatasync`` began and ended. After the
process was killed, ``lose_power`` makes the folder anew from what it was at the start and from the
record: everything that a finished sync covers is there; of everything else each write is there, or
not, or some sectors of it, by chance and in any order. A file's name is there if its folder was
synced after it was made. So if anything was acknowledged before its sync ended, it is lost sooner
or later, and the audit says so. That this is found is itself tested: see ``Orders.careless``.

What it does not see: ``mmap``, with which SQLite writes only ``-shm``; that file is made of the
others, so it is left out, zeroed or filled with rubbish. The log's ``reserve`` holds nothing but
room, and is left out. It needs a C compiler; ``prepare`` says so if there is none, and checks that
it does see what SQLite writes here.
"""

import functools
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, CREATE, UNLINK, RENAME, SYNC_FAIL = range(1, 9)
SECTOR_BYTES = 512
DROP_SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)
TORN_SHARE = 0.3
GROWN_SHARE = 0.3
"""How often a file has the length of a write that is not there."""

_HEAD = struct.Struct("=IIqq")
_SWITCHES = struct.Struct("=qq")
_FOLDER = "."
_MEMORY = "-shm"
_ROOM = "reserve"

PROBE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1] + "/probe.db", isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=FULL")
db.execute("CREATE TABLE t (x)")
"""


class UnavailableError(Exception):
    """This machine cannot do it; the message says what is missing and how to get it."""


@functools.cache
def prepare() -> Path:
    """Build the library, and see that it records what SQLite does; return its path.

    Raises:
        UnavailableError: there is no compiler, or SQLite is out of the library's reach.
    """
    compiler = next((c for name in ("cc", "gcc", "clang") if (c := shutil.which(name))), None)
    if compiler is None or sys.platform != "linux":
        raise UnavailableError("no C compiler for Linux: install gcc or clang")
    folder = Path(tempfile.mkdtemp(prefix="stepfold-disk-"))
    library = folder / "disk.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE)]
    built = subprocess.run(
        [*command, "-ldl", "-lpthread"], capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise UnavailableError(f"{SOURCE.name} does not compile here: {built.stderr[:500]}")
    (folder / "probe").mkdir()
    recorder = Recorder(library, folder / "probe", folder / "record", 1)
    environment = os.environ | recorder.environment()
    probe = [sys.executable, "-c", PROBE, str(folder / "probe")]
    subprocess.run(probe, env=environment, check=True)
    seen = {(kind, path) for kind, path, _, _ in records(recorder.record)}
    if not {(WRITE, "probe.db-wal"), (SYNC_END, "probe.db-wal")} <= seen:
        raise UnavailableError(
            "SQLite's writes cannot be seen: it, or Python, is linked statically to the C"
            " library; use a Python whose sqlite3 module is linked dynamically"
        )
    return library


class Recorder:
    """The record of one life, and the switches that make its disk fail.

    Args:
        library: what ``prepare`` returned.
        folder: the log's folder, as the process names it.
        record: the file to write; the switches lie beside it.
        seed: decides how long syncs take.
        sync_us_max: the longest, in microseconds.
    """

    def __init__(
        self, library: Path, folder: Path, record: Path, seed: int, sync_us_max: int = 0
    ) -> None:
        self._library, self._folder, self.record = library, folder, record
        self._seed, self._sync_us_max = seed, sync_us_max
        self._switches = record.with_name(record.name + ".switches")
        self.switch()

    def environment(self) -> dict[str, str]:
        """Return what the process needs in its environment."""
        return {
            "LD_PRELOAD": str(self._library),
            "CHAOS_DISK_FOLDER": str(self._folder),
            "CHAOS_DISK_RECORD": str(self.record),
            "CHAOS_DISK_SWITCHES": str(self._switches),
            "CHAOS_DISK_SEED": str(self._seed),
            "CHAOS_DISK_SYNC_US": str(self._sync_us_max),
        }

    def switch(self, *, free_bytes: int = -1, syncs_fail: int = 0) -> None:
        """Let so many bytes be free (-1: as many as there are) and the next syncs fail."""
        # Without truncating: the process maps this file.
        with self._switches.open("r+b" if self._switches.exists() else "wb") as file:
            file.write(_SWITCHES.pack(free_bytes, syncs_fail))

    def close(self) -> None:
        """Remove the record."""
        self.record.unlink(missing_ok=True)
        self._switches.unlink()


def records(path: Path) -> Iterator[tuple[int, str, int, bytes]]:
    """Yield (kind, path, offset, data) of a record, up to one that a kill tore."""
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at + _HEAD.size <= len(data):
        kind, path_bytes, offset, data_bytes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        end = at + path_bytes + data_bytes
        if end > len(data):
            return
        yield kind, data[at : at + path_bytes].decode(), offset, data[at + path_bytes : end]
        at = end


@dataclass(slots=True)
class Loss:
    """What a loss of power took."""

    unsynced: int = 0
    dropped: int = 0
    torn: int = 0

    def __str__(self) -> str:
        return f"{self.unsynced} unsynced, {self.dropped} dropped, {self.torn} torn"


@dataclass(slots=True)
class _File:
    """A file: what is safe, and what was done to it since, with the place in the record."""

    data: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, int, int, bytes]] = field(
        default_factory=list[tuple[int, int, int, bytes]]
    )

    def sync(self, before: int) -> None:
        """Make safe what was done before this place in the record."""
        for place, kind, offset, data in self.pending:
            if place < before:
                _apply(self.data, kind, offset, data)
        self.pending = [p for p in self.pending if p[0] >= before]

    def fail(self, before: int, chance: random.Random) -> None:
        """Give up what was done before this place: it is safe or not, and no later sync mends it.

        So does Linux: pages that could not be written are clean afterwards.
        """
        for place, kind, offset, data in self.pending:
            if place < before and chance.random() < 0.5:
                _apply(self.data, kind, offset, data)
        self.pending = [p for p in self.pending if p[0] >= before]

    def lose(self, chance: random.Random, loss: Loss) -> bytes:
        """Return what is left of it."""
        share = chance.choice(DROP_SHARES)
        left = bytearray(self.data)
        for _, kind, offset, data in self.pending:
            loss.unsynced += 1
            if chance.random() < share:
                loss.dropped += 1
                if kind == WRITE and chance.random() < GROWN_SHARE:
                    left.extend(bytes(max(0, offset + len(data) - len(left))))
            elif kind == WRITE and chance.random() < TORN_SHARE:
                loss.torn += 1
                for at in range(0, len(data), SECTOR_BYTES):
                    if chance.random() < 0.5:
                        _apply(left, kind, offset + at, data[at : at + SECTOR_BYTES])
            else:
                _apply(left, kind, offset, data)
        return bytes(left)


def _apply(file: bytearray, kind: int, offset: int, data: bytes) -> None:
    end = offset + len(data)
    if kind == TRUNCATE:
        del file[offset:]
    file.extend(bytes(max(0, end - len(file))))
    file[offset:end] = data


class Platter:
    """What a folder's disk holds, as a record tells it."""

    def __init__(self, base: Path, chance: random.Random) -> None:
        self._chance = chance
        self._names = {
            p.name: _File(bytearray(p.read_bytes())) for p in base.iterdir() if p.name != _ROOM
        }
        self._safe_names = dict(self._names)
        self._renamed: list[tuple[int, int, str, _File | None]] = []
        self._began: dict[tuple[str, int], int] = {}
        self._place = 0

    def take(self, kind: int, path: str, offset: int, data: bytes) -> None:
        """Take in one thing that the process did."""
        self._place += 1
        if path == _ROOM:
            return
        match kind:
            case 1 | 2:  # WRITE, TRUNCATE
                self._file(path).pending.append((self._place, kind, offset, data))
            case 3:  # SYNC_BEGIN
                self._began[path, offset] = self._place
            case 4:  # SYNC_END
                self._sync(path, self._began.pop((path, offset)))
            case 8:  # SYNC_FAIL
                if path != _FOLDER:
                    self._file(path).fail(self._began.pop((path, offset)), self._chance)
            case 5:  # CREATE
                self._name(path, _File())
            case 6:  # UNLINK
                self._name(path, None)
            case 7:  # RENAME
                file = self._file(path)
                self._name(path, None)
                self._name(data.decode(), file)
            case _:
                raise AssertionError(f"a record of kind {kind}")

    def _file(self, path: str) -> _File:
        if path not in self._names:
            self._name(path, _File())
        return self._names[path]

    def _name(self, path: str, file: _File | None) -> None:
        self._renamed.append((self._place, UNLINK if file is None else CREATE, path, file))
        _rename(self._names, path, file)

    def _sync(self, path: str, before: int) -> None:
        if path != _FOLDER:
            self._file(path).sync(before)
            return
        for place, _, name, file in self._renamed:
            if place < before:
                _rename(self._safe_names, name, file)
        self._renamed = [r for r in self._renamed if r[0] >= before]

    def lose_power(self, folder: Path) -> Loss:
        """Put into the folder what is left, in the place of everything that is there."""
        loss, chance = Loss(), self._chance
        share = chance.choice(DROP_SHARES)
        for _, _, name, file in self._renamed:
            loss.unsynced += 1
            if chance.random() < share:
                loss.dropped += 1
            else:
                _rename(self._safe_names, name, file)
        for path in folder.iterdir():
            path.unlink()
        for name, file in self._safe_names.items():
            if name.endswith(_MEMORY):
                _leave_rubbish(folder / name, chance)
            else:
                (folder / name).write_bytes(file.lose(chance, loss))
        return loss


def _rename(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


def _leave_rubbish(path: Path, chance: random.Random) -> None:
    rubbish = chance.choice([None, bytes(32 << 10), chance.randbytes(32 << 10)])
    if rubbish is not None:
        path.write_bytes(rubbish)


def lose_power(base: Path, record: Path, folder: Path, chance: random.Random) -> Loss:
    """Make a folder what it is after a loss of power.

    Args:
        base: what the folder was when the process began; all of it was safe.
        record: what the process did.
        folder: is replaced.
        chance: decides what is left of what was not synced.
    """
    platter = Platter(base, chance)
    for kind, path, offset, data in records(record):
        platter.take(kind, path, offset, data)
    return platter.lose_power(folder)
