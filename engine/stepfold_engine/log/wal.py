"""Looks at SQLite's write-ahead log before SQLite does, to tell a torn tail from damage.

SQLite passes over everything behind the first frame that does not check. Behind a kill that is
right: the last commit, never acknowledged, may be torn. Behind damage it would drop acknowledged
commits without a word. The format: https://www.sqlite.org/fileformat2.html#walformat
"""

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Tail:
    """What lies behind the last whole commit of a write-ahead log.

    Attributes:
        position: where it begins in the file, in bytes.
        torn_bytes: how much of it belongs to the commit under way when the process ended.
        commits: how many commits begin and end in it; more than one means damage.
        frame: the number of the first frame that does not check, from 0.
    """

    position: int
    torn_bytes: int
    commits: int
    frame: int


def inspect(path: Path) -> Tail | None:
    """Return the tail of a write-ahead log, None if there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _HEADER_BYTES:
        return None
    magic, _, page_bytes, _, salt1, salt2 = struct.unpack(">6I", data[:24])
    if magic not in (_MAGIC_LITTLE, _MAGIC_BIG):
        return None
    order = "<" if magic == _MAGIC_LITTLE else ">"
    sums = _checksum(data[:24], (0, 0), order)
    if sums != struct.unpack(">2I", data[24:32]):
        return None  # the header was being written: no commit followed it
    size = _FRAME_HEADER_BYTES + page_bytes
    good_end, broken, position, index = _HEADER_BYTES, -1, _HEADER_BYTES, 0
    torn_end, commits = _HEADER_BYTES, 0
    while position + _FRAME_HEADER_BYTES <= len(data):
        frame = data[position : position + size]
        _, commit, frame_salt1, frame_salt2, sum1, sum2 = struct.unpack(">6I", frame[:24])
        if (frame_salt1, frame_salt2) != (salt1, salt2):
            break
        if broken < 0:
            sums = _checksum(frame[:8], sums, order)
            sums = _checksum(frame[24:], sums, order) if len(frame) == size else (-1, -1)
            if sums != (sum1, sum2):
                broken = index
            elif commit:
                good_end = position + size
        if broken >= 0 and commit:
            commits += 1
        position += size
        index += 1
        torn_end = min(position, len(data))
    if torn_end <= good_end:
        return None
    return Tail(good_end, torn_end - good_end, commits, broken if broken >= 0 else index)


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    s0, s1 = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) & _MASK
        s1 = (s1 + words[i + 1] + s0) & _MASK
    return s0, s1
