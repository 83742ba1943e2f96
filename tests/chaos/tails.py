"""Torn tails, written on purpose: the last commit of a write-ahead log is cut or spoilt.

What is torn must never have been acknowledged. So a process of its own appends events whose sender
hears nothing, and ends at once: its commit is the last, and nobody was told of it. Then a random
part of this commit is cut off, zeroed or overwritten, or rubbish is put behind it.

The format: https://www.sqlite.org/fileformat2.html#walformat (section 4).
"""

import asyncio
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stepfold_engine.log.base import EVENTS
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.readers import event_record
from stepfold_schemas.events import Event
from stepfold_schemas.ids import partition_of, run_id, ulid_text
from tests.chaos.load import Sent
from tests.chaos.rooms import Room

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
RUBBISH_BYTES_MAX = 20_000
UNHEARD = 9
"""The exit code of a process that appended, and told nobody."""

WAYS = ("cut", "cut", "cut and rubbish", "zeroed", "spoilt", "rubbish")


def last_commit(wal: Path) -> tuple[int, int]:
    """Return where the last whole commit of a write-ahead log begins and ends, in bytes."""
    data = wal.read_bytes()
    (page_bytes,) = struct.unpack_from(">I", data, 8)
    salts = data[16:24]
    size = FRAME_HEADER_BYTES + page_bytes
    ends = [HEADER_BYTES]
    for at in range(HEADER_BYTES, len(data) - size + 1, size):
        if data[at + 8 : at + 16] != salts:
            break
        (pages,) = struct.unpack_from(">I", data, at + 4)
        if pages:
            ends.append(at + size)
    assert len(ends) > 1, "a commit was just written"
    return ends[-2], ends[-1]


def tear(wal: Path, chance: random.Random) -> str:
    """Spoil the last commit of a write-ahead log; say in words how."""
    begin, end = last_commit(wal)
    way = chance.choice(WAYS)
    data = bytearray(wal.read_bytes())
    if way.startswith("cut"):
        del data[chance.randrange(begin, end) :]
    if way == "zeroed":
        first = chance.randrange(begin, end)
        data[first:end] = bytes(end - first)
    if way == "spoilt":
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(begin, end)] ^= chance.randint(1, 255)
    if way.endswith("rubbish"):
        data[min(end, len(data)) :] = chance.randbytes(chance.randint(1, RUBBISH_BYTES_MAX))
    wal.write_bytes(data)
    return f"{way}, {end - begin} bytes of a commit"


def append_unheard(room: Room, events: Sequence[Sent]) -> None:
    """Append events from a process that ends before anybody hears of it."""
    given = json.dumps([[e.name, e.id, e.data] for e in events])
    pipe = subprocess.PIPE
    process = room.start(
        "tests.chaos.tails", str(room.inside), given, said=pipe, complained=pipe, more={}
    )
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == UNHEARD, complaints.decode(errors="replace")


async def _append(folder: Path, events: Sequence[Sent]) -> None:
    now_ms = time.time_ns() // 1_000_000
    log = EmbeddedLog.open(folder, None, lambda: now_ms)
    count = await log.partitions(EVENTS)
    appends = []
    for sent in events:
        internal = ulid_text(run_id(now_ms, os.urandom(10)))
        data = json.dumps(sent.data).encode()
        event = Event(sent.name, data, sent.id, now_ms, b"{}", internal, now_ms)
        partition = partition_of(sent.id, count)
        appends.append(log.append(EVENTS, partition, [event_record(event)]))
    await asyncio.gather(*appends)
    os._exit(UNHEARD)


if __name__ == "__main__":
    asyncio.run(
        _append(Path(sys.argv[1]), [Sent(n, i, data) for n, i, data in json.loads(sys.argv[2])])
    )
