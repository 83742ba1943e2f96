"""Dead letters: inputs that could not be read, with their original bytes, and a second chance.

A letter's id is its place in its topic, ``partition-offset``. Its own bytes, key and headers are
those of the record that could not be read; our two headers beside them say why, and where it lay.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, INBOX, Headers, Log, NewRecord, Record

ERROR_HEADER = "stepfold.error"
SOURCE_HEADER = "stepfold.source"
REDRIVEN_HEADER = "stepfold.redriven"
"""On a record that was sent again: where it lay first, which is its id if it has none."""

_OURS = (ERROR_HEADER, SOURCE_HEADER, REDRIVEN_HEADER)
CHUNK_OFFSETS = 200


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An input that could not be read.

    Attributes:
        id: ``partition-offset`` among the dead letters.
        at_ms: when it was put there, in milliseconds since 1970.
        source: where it lay: ``topic-partition-offset``.
        error: why it could not be read.
    """

    id: str
    at_ms: int
    source: str
    error: str
    value: bytes
    key: bytes
    headers: Headers


def letter_of(error: str, topic: str, partition: int, record: Record) -> NewRecord:
    """Return the record that keeps an input which cannot be read."""
    where = f"{topic}-{partition}-{record.offset}"
    ours = ((ERROR_HEADER, error.encode(errors="replace")), (SOURCE_HEADER, where.encode()))
    # A letter that was sent again and cannot be read again lies there with its newest reasons.
    theirs = tuple((k, v) for k, v in record.headers if k not in (ERROR_HEADER, SOURCE_HEADER))
    return NewRecord(record.value, record.key, (*theirs, *ours))


async def newest_letters(log: Log, limit: int) -> list[DeadLetter]:
    """Return the letters that were put there last, newest first."""
    found: list[DeadLetter] = []
    for partition in range(await log.partitions(DEAD_LETTERS)):
        mine: list[DeadLetter] = []
        async for letter in _backwards(log, partition):
            mine.append(letter)
            if len(mine) >= limit:
                break
        found += mine
    return sorted(found, key=lambda letter: letter.at_ms, reverse=True)[:limit]


async def _backwards(log: Log, partition: int) -> AsyncGenerator[DeadLetter]:
    bounds = await log.bounds(DEAD_LETTERS, partition)
    end = bounds.end
    while end > bounds.start:
        first = max(bounds.start, end - CHUNK_OFFSETS)
        chunk, offset = list[Record](), first
        while offset < end:
            batch = await log.read(DEAD_LETTERS, partition, offset)
            chunk += [record for record in batch.records if record.offset < end]
            if batch.next_offset <= offset:
                break
            offset = batch.next_offset
        for record in reversed(chunk):
            yield _letter(partition, record)
        end = first


async def letter_by_id(log: Log, letter_id: str) -> DeadLetter:
    """Return a letter.

    Raises:
        RequestRefusedError: there is none with this id.
    """
    left, _, right = letter_id.partition("-")
    if left.isdecimal() and right.isdecimal() and len(letter_id) < 40:
        partition, offset = int(left), int(right)
        if partition < await log.partitions(DEAD_LETTERS):
            batch = await log.read(DEAD_LETTERS, partition, offset, bytes_max=1)
            for record in batch.records[:1]:
                if record.offset == offset:
                    return _letter(partition, record)
    raise RequestRefusedError(404, f"no dead letter {letter_id[:80]}")


def _letter(partition: int, record: Record) -> DeadLetter:
    said = {name: value.decode(errors="replace") for name, value in record.headers}
    return DeadLetter(
        f"{partition}-{record.offset}",
        record.at_ms,
        said.get(SOURCE_HEADER, ""),
        said.get(ERROR_HEADER, ""),
        record.value,
        record.key,
        tuple((name, value) for name, value in record.headers if name not in _OURS),
    )


def place_of(letter: DeadLetter) -> tuple[str, int, int]:
    """Return where a letter lay: topic, partition, offset.

    Raises:
        RequestRefusedError: it does not say.
    """
    parts = letter.source.rsplit("-", 2)
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        text = f"dead letter {letter.id} was read from nowhere that it says"
        raise RequestRefusedError(409, text)
    return parts[0], int(parts[1]), int(parts[2])


async def redrive(log: Log, letter: DeadLetter, value: bytes | None = None) -> str:
    """Send an event again that could not be read, as it was or mended; return where it lies now.

    It keeps its identity: if it has no id, the place where it lay first is its id. So an event
    that is sent again twice starts each function once.

    Raises:
        RequestRefusedError: it was no event of ``events``.
        LogError: the log did not take it.
    """
    topic, partition, _ = place_of(letter)
    if topic != EVENTS:
        text = f"dead letter {letter.id} was read from {letter.source}; only events can be sent"
        hint = "" if topic == INBOX else f", and {topic} is no source of this process (--sources)"
        raise RequestRefusedError(409, f"{text} again{hint}")
    headers = (*letter.headers, (REDRIVEN_HEADER, letter.source.encode()))
    record = NewRecord(letter.value if value is None else value, letter.key, headers)
    base = await log.append(EVENTS, partition, [record])
    return f"{EVENTS}-{partition}-{'?' if base is None else base}"
