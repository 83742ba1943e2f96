"""What only the embedded log meets: damage, torn tails, a second process, a full disk."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stepfold_engine.errors import (
    AppendRefusedError,
    CorruptLogError,
    LogError,
    LogFullError,
    LogLockedError,
)
from stepfold_engine.log import space
from stepfold_engine.log.base import EVENTS, JOURNAL, NewRecord
from stepfold_engine.log.embedded import TAIL_BYTES_MAX, EmbeddedLog

_T = TypeVar("_T")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)


def opened(folder: Path, partitions: int | None = 2, **more: Any) -> EmbeddedLog:
    more.setdefault("reserve_bytes", 1 << 20)
    return EmbeddedLog.open(folder, partitions, now_ms, **more)


async def write(log: EmbeddedLog, *values: bytes, partition: int = 0) -> None:
    for value in values:
        await log.append(JOURNAL, partition, [NewRecord(value)])


async def fill_with_events(log: EmbeddedLog) -> None:
    while True:
        await log.append(EVENTS, 0, [NewRecord(b"e" * 20_000)])


def fill_disk(file: Path) -> None:
    for size in (4096, 512):
        with file.open("ab", buffering=0) as filler, suppress(OSError):
            while filler.write(b"x" * size) == size:
                pass


async def read(log: EmbeddedLog, partition: int = 0) -> list[bytes]:
    bounds = await log.bounds(JOURNAL, partition)
    offset, found = bounds.start, list[bytes]()
    while offset < bounds.end:
        batch = await log.read(JOURNAL, partition, offset)
        found += [r.value for r in batch.records]
        offset = batch.next_offset
    return found


def leave_without_closing(folder: Path, count: int) -> None:
    """Write records in a process that ends as if killed, its write-ahead log in place."""
    script = (
        "import asyncio, os, sys, time\n"
        "from pathlib import Path\n"
        "from stepfold_engine.log.base import NewRecord\n"
        "from stepfold_engine.log.embedded import EmbeddedLog\n"
        "async def main():\n"
        "    log = EmbeddedLog.open(Path(sys.argv[1]), 2, lambda: time.time_ns() // 10**6)\n"
        f"    for i in range({count}):\n"
        "        await log.append('journal', 0, [NewRecord(b'record %d ' % i + b'x' * 500)])\n"
        "    os._exit(9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert done.returncode == 9


def test_records_survive_a_close_and_an_open(tmp_path: Path) -> None:
    async def first() -> None:
        log = opened(tmp_path)
        await write(log, b"a", b"b")
        await log.trim(JOURNAL, 0, 1)
        await log.close()

    async def second() -> None:
        log = opened(tmp_path, None)
        assert await log.partitions(JOURNAL) == 2
        assert await read(log) == [b"b"]
        assert (await log.bounds(JOURNAL, 0)).start == 1
        assert await log.append(JOURNAL, 0, [NewRecord(b"c")]) == 2
        await log.close()

    run(first())
    run(second())


def test_a_flipped_byte_stops_that_partition_there_and_leaves_the_bytes(tmp_path: Path) -> None:
    async def fill() -> None:
        log = opened(tmp_path)
        await write(log, b"before", b"MARKED-record", b"after")
        await write(log, b"other", partition=1)
        await log.close()

    run(fill())
    path = tmp_path / "log.db"
    data = path.read_bytes()
    assert data.count(b"MARKED-record") == 1
    path.write_bytes(data.replace(b"MARKED-record", b"MARKED-recorE"))

    async def look() -> None:
        log = opened(tmp_path)
        assert [r.value for r in (await log.read(JOURNAL, 0, 0)).records] == [b"before"]
        with pytest.raises(CorruptLogError, match="journal/0 offset 1") as caught:
            await log.read(JOURNAL, 0, 1)
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == (JOURNAL, 0, 1)
        assert await read(log, 1) == [b"other"]
        await log.append(JOURNAL, 1, [NewRecord(b"goes on")])
        await log.close()

    run(look())
    assert b"MARKED-recorE" in path.read_bytes()


def test_a_torn_tail_is_cut_and_reported(tmp_path: Path) -> None:
    leave_without_closing(tmp_path, 20)
    wal = tmp_path / "log.db-wal"
    size = wal.stat().st_size
    os.truncate(wal, size - 2000)

    async def look() -> None:
        log = opened(tmp_path, None)
        assert len(log.warnings) == 1
        assert "cut off" in log.warnings[0]
        assert len(await read(log)) == 19
        await log.close()

    run(look())


def test_a_clean_end_reports_nothing(tmp_path: Path) -> None:
    leave_without_closing(tmp_path, 20)

    async def look() -> None:
        log = opened(tmp_path, None)
        assert log.warnings == []
        assert len(await read(log)) == 20
        await log.close()

    run(look())


def test_damage_before_acknowledged_commits_is_refused_and_nothing_is_changed(
    tmp_path: Path,
) -> None:
    leave_without_closing(tmp_path, 20)
    wal = tmp_path / "log.db-wal"
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 0xFF
    wal.write_bytes(data)
    with pytest.raises(CorruptLogError, match="restore the folder"):
        opened(tmp_path, None)
    assert wal.read_bytes() == bytes(data)


@pytest.mark.parametrize("place", ["header", "salt", "checksum", "page"])
def test_damage_anywhere_before_acknowledged_commits_is_refused(tmp_path: Path, place: str) -> None:
    leave_without_closing(tmp_path, 20)
    wal = tmp_path / "log.db-wal"
    data = bytearray(wal.read_bytes())
    middle = 32 + (24 + 4096) * (len(data) // 4120 // 2)
    at = {"header": 17, "salt": middle + 9, "checksum": middle + 17, "page": middle + 500}[place]
    data[at] ^= 0x5A
    wal.write_bytes(data)
    frame = "frame 0 " if place == "header" else "frame "
    with pytest.raises(CorruptLogError, match=rf"log\.db-wal, {frame}.*byte \d+.*damaged"):
        opened(tmp_path, None)
    assert wal.read_bytes() == bytes(data)


@pytest.mark.parametrize("tail", [b"\x5a" * 700, b"\x5a" * 9000], ids=["part", "frames"])
def test_other_bytes_behind_the_last_commit_are_reported_and_lose_nothing(
    tmp_path: Path, tail: bytes
) -> None:
    leave_without_closing(tmp_path, 20)
    with (tmp_path / "log.db-wal").open("ab") as file:
        file.write(tail)

    async def look() -> None:
        log = opened(tmp_path, None)
        assert ["cut off" in w for w in log.warnings] == [True]
        assert len(await read(log)) == 20
        await log.close()

    run(look())


def test_a_damaged_table_stops_its_partition_and_no_other(tmp_path: Path) -> None:
    async def fill() -> None:
        log = opened(tmp_path)
        await write(log, *([b"v" * 300] * 50))
        await write(log, b"other", partition=1)
        await log.close()

    run(fill())
    path = tmp_path / "log.db"
    db = sqlite3.connect(path)
    query = "SELECT rootpage FROM sqlite_master WHERE name = 'journal/0'"
    (root,) = db.execute(query).fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)

    async def look() -> None:
        log = opened(tmp_path)
        with pytest.raises(CorruptLogError, match="journal/0"):
            await log.bounds(JOURNAL, 0)
        with pytest.raises(CorruptLogError, match="journal/0"):
            await log.read(JOURNAL, 0, 0)
        refused, base = await asyncio.gather(
            log.append(JOURNAL, 0, [NewRecord(b"x")]),
            log.append(JOURNAL, 1, [NewRecord(b"goes on")]),
            return_exceptions=True,
        )
        assert isinstance(refused, AppendRefusedError)
        assert base == 1
        assert await read(log, 1) == [b"other", b"goes on"]
        await log.close()

    run(look())


def test_a_missing_record_is_damage_not_a_hole(tmp_path: Path) -> None:
    async def fill() -> None:
        log = opened(tmp_path)
        await write(log, *(b"%d" % i for i in range(9)))
        await log.close()

    run(fill())
    db = sqlite3.connect(tmp_path / "log.db")
    db.execute('DELETE FROM "journal/0" WHERE offset = 4')
    db.commit()
    db.close()

    async def look() -> None:
        log = opened(tmp_path)
        batch = await log.read(JOURNAL, 0, 0)
        assert (len(batch.records), batch.next_offset) == (4, 4)
        with pytest.raises(CorruptLogError, match="journal/0 offset 4"):
            await log.read(JOURNAL, 0, 4)
        assert len((await log.read(JOURNAL, 0, 5)).records) == 4
        await log.close()

    run(look())


def test_an_append_that_cannot_be_written_harms_no_other(tmp_path: Path) -> None:
    async def both() -> None:
        log = opened(tmp_path)
        text: Any = "not bytes"
        refused, base = await asyncio.gather(
            log.append(JOURNAL, 0, [NewRecord(text)]),
            log.append(JOURNAL, 0, [NewRecord(b"good")]),
            return_exceptions=True,
        )
        assert isinstance(refused, AppendRefusedError)
        assert base == 0
        assert await read(log) == [b"good"]
        await log.close()

    run(both())


def test_the_write_ahead_log_stays_short_under_steady_appends(tmp_path: Path) -> None:
    async def writer(log: EmbeddedLog) -> None:
        for _ in range(60):
            await log.append(JOURNAL, 0, [NewRecord(b"x" * 250_000)])

    async def fill() -> None:
        log = opened(tmp_path)
        await asyncio.gather(*(writer(log) for _ in range(4)))
        assert (tmp_path / "log.db-wal").stat().st_size < 40 << 20
        assert len(await read(log)) == 240
        await log.close()

    run(fill())


def test_what_is_kept_in_memory_is_bounded(tmp_path: Path) -> None:
    async def fill() -> None:
        log = opened(tmp_path)
        for i in range(12):
            await log.append(EVENTS, 0, [NewRecord(b"%d " % i + b"x" * (1 << 20))])
        tail = log._ends[EVENTS, 0].tail
        assert sum(len(r.value) for r in tail) <= TAIL_BYTES_MAX
        for i in range(12):
            batch = await log.read(EVENTS, 0, i, bytes_max=1)
            assert batch.records[0].value.startswith(b"%d " % i)
        await log.close()

    run(fill())


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    run(opened(tmp_path).close())
    db = sqlite3.connect(tmp_path / "log.db")
    db.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
    db.commit()
    db.close()
    with pytest.raises(LogError, match="format 99"):
        opened(tmp_path)


def test_a_second_process_is_refused_and_told_who_was_first(tmp_path: Path) -> None:
    async def both() -> None:
        log = opened(tmp_path)
        script = (
            "import sys\nfrom pathlib import Path\n"
            "from stepfold_engine.log.embedded import EmbeddedLog\n"
            "EmbeddedLog.open(Path(sys.argv[1]), None, lambda: 0)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
        assert done.returncode != 0
        assert f"in use by process {os.getpid()} (".encode() in done.stderr
        with pytest.raises(LogLockedError):
            opened(tmp_path)
        await log.close()
        again = opened(tmp_path)
        await again.close()

    run(both())


def test_another_number_of_partitions_is_refused_with_both_numbers(tmp_path: Path) -> None:
    run(opened(tmp_path, 2).close())
    with pytest.raises(LogError, match=r"2 partitions, not 4"):
        opened(tmp_path, 4)


def test_a_full_log_refuses_events_keeps_the_journal_going_and_goes_on_with_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fill() -> None:
        log = opened(tmp_path, bytes_max=2 << 20, reserve_bytes=1 << 20)
        with pytest.raises(LogFullError, match="limit"):
            await fill_with_events(log)
        assert log.full
        written = (await log.bounds(EVENTS, 0)).end
        assert 50 < written < 105
        await write(log, *([b"outcome" * 100] * 20))
        with pytest.raises(LogFullError):
            await log.append(EVENTS, 0, [NewRecord(b"small")])
        assert len(await read(log)) == 20
        await log.trim(EVENTS, 0, written)
        monkeypatch.setattr(space, "CHECK_EVERY_S", 0.0)
        await log.append(EVENTS, 0, [NewRecord(b"again")])
        assert not log.full
        await log.close()

    run(fill())


def test_events_alone_do_not_use_the_reserve_and_a_full_log_can_be_trimmed(tmp_path: Path) -> None:
    async def fill() -> None:
        log = opened(tmp_path, bytes_max=2 << 20, reserve_bytes=1 << 20)
        with pytest.raises(LogFullError):
            await fill_with_events(log)
        assert (tmp_path / "reserve").stat().st_size == 1 << 20
        large = NewRecord(b"o" * 500_000)
        end = (await log.bounds(EVENTS, 0)).end
        # In one commit with an append that needs the reserve, and with one that gets none.
        base, _, refused = await asyncio.gather(
            log.append(JOURNAL, 0, [large]),
            log.trim(EVENTS, 0, end // 2),
            log.append(EVENTS, 1, [large]),
            return_exceptions=True,
        )
        assert base == 0
        assert isinstance(refused, LogFullError)
        assert (await log.bounds(EVENTS, 0)).start == end // 2
        await log.close()
        # A higher limit at the next opening makes it go on.
        again = opened(tmp_path, bytes_max=8 << 20)
        assert not again.full
        assert await again.append(EVENTS, 1, [large]) == 0
        await again.close()

    run(fill())


def test_a_full_disk_is_refused_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs a small file system: run as root where tmpfs may be mounted")
    try:

        async def fill() -> None:
            log = opened(mounted / "log", reserve_bytes=1 << 20)
            filler = mounted / "filler"
            await log.append(EVENTS, 0, [NewRecord(b"first")])
            fill_disk(filler)
            with pytest.raises(LogFullError, match="no space left"):
                await fill_with_events(log)
            before = (await log.bounds(EVENTS, 0)).end
            await write(log, b"outcome")
            fill_disk(filler)
            await log.close()
            # Nothing is left at all: it opens nevertheless, and reads.
            log = opened(mounted / "log", None, reserve_bytes=1 << 20)
            assert await read(log) == [b"outcome"]
            with pytest.raises(LogFullError):
                await log.append(EVENTS, 0, [NewRecord(b"e" * 2_000_000)])
            assert log.full
            filler.unlink(missing_ok=True)
            monkeypatch.setattr(space, "CHECK_EVERY_S", 0.0)
            await log.append(EVENTS, 0, [NewRecord(b"again")])
            assert (await log.bounds(EVENTS, 0)).end == before + 1
            assert await read(log) == [b"outcome"]
            await log.close()

        run(fill())
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=False)
