"""What only the embedded log meets: damage, torn tails, a second process, a full disk."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stepfold_engine.errors import (
    CorruptLogError,
    LogError,
    LogFullError,
    LogLockedError,
)
from stepfold_engine.log.base import EVENTS, JOURNAL, NewRecord
from stepfold_engine.log.embedded import EmbeddedLog

_T = TypeVar("_T")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)


def opened(folder: Path, partitions: int | None = 2, **more: Any) -> EmbeddedLog:
    return EmbeddedLog.open(folder, partitions, now_ms, **{"reserve_bytes": 1 << 20} | more)


async def write(log: EmbeddedLog, *values: bytes, partition: int = 0) -> None:
    for value in values:
        await log.append(JOURNAL, partition, [NewRecord(value)])


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


def test_a_second_process_is_refused_and_told_who_was_first(tmp_path: Path) -> None:
    async def both() -> None:
        log = opened(tmp_path)
        script = (
            "import sys\nfrom pathlib import Path\n"
            "from stepfold_engine.log.embedded import EmbeddedLog\n"
            "EmbeddedLog.open(Path(sys.argv[1]), None, lambda: 0)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False
        )
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
    tmp_path: Path,
) -> None:
    async def fill() -> None:
        log = opened(tmp_path, bytes_max=2 << 20, reserve_bytes=1 << 20)
        written = 0
        with pytest.raises(LogFullError, match="limit"):
            for _ in range(1000):
                await log.append(EVENTS, 0, [NewRecord(b"e" * 20_000)])
                written += 1
        assert log.full
        assert (await log.bounds(EVENTS, 0)).end == written
        await write(log, *([b"outcome" * 100] * 20))
        with pytest.raises(LogFullError):
            await log.append(EVENTS, 0, [NewRecord(b"small")])
        assert len(await read(log)) == 20
        await log.trim(EVENTS, 0, written)
        log._space._checked_s = 0.0  # as if a second had passed
        await log.append(EVENTS, 0, [NewRecord(b"again")])
        assert not log.full
        await log.close()

    run(fill())


def test_a_full_disk_is_refused_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs a small file system: run as root where tmpfs may be mounted")
    try:

        async def fill() -> None:
            log = opened(mounted / "log", reserve_bytes=1 << 20)
            filler = mounted / "filler"
            with pytest.raises(LogFullError, match="no space left"):
                for index in range(10_000):
                    await log.append(EVENTS, 0, [NewRecord(b"e" * 20_000)])
                    if index == 3:
                        with filler.open("wb", buffering=0) as file, suppress(OSError):
                            while True:
                                file.write(b"x" * 4096)
            before = (await log.bounds(EVENTS, 0)).end
            await write(log, b"outcome")
            filler.unlink(missing_ok=True)
            log._space._checked_s = 0.0  # as if a second had passed
            await log.append(EVENTS, 0, [NewRecord(b"again")])
            assert (await log.bounds(EVENTS, 0)).end == before + 1
            assert await read(log) == [b"outcome"]
            await log.close()

        run(fill())
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=False)
