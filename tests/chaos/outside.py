"""What processes leave outside their log: a ledger of what bodies did, and what was confirmed.

Both lie beside the log's folder, not in it: no kill, torn tail or loss of power takes anything
from them, as nothing takes a charged card back. Each line or record is one ``write`` to a file
opened with ``O_APPEND``, so a kill leaves at most one of them torn, at the end of its life's file.
"""

import os
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import stepfold
from stepfold_engine.owner import Owner
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision

_HEAD = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Deed:
    """A body was run.

    Attributes:
        life: the number of the process.
        token: what the body returned, if it did not fail. No other body returns the same.
        stage: how far its run's code had come: it grows from step to step.
        seen: tokens that the code had from earlier steps.
    """

    life: int
    function: str
    n: int
    run: str
    step: str
    attempt: int
    stage: int
    token: str
    seen: tuple[str, ...]


class Ledger:
    """Where bodies note what they do.

    Args:
        folder: where the file of this life lies.
        life: the number of the process.
        synced: whether each line is synced, as a careful program would.
        noted: the steps that are noted; none for all.
    """

    def __init__(
        self, folder: Path, life: int, *, synced: bool = True, noted: Collection[str] = ()
    ) -> None:
        self._file = _opened(folder / f"ledger-{life:05}")
        self._life, self._synced, self._noted = life, synced, frozenset(noted)
        self._count = 0

    def note(self, function: str, n: int, stage: int, seen: Sequence[str]) -> str:
        """Note that the body of a step, which calls this, was run; return its token."""
        info = stepfold.step_info()
        self._count += 1
        token = f"{self._life}.{self._count}.{os.urandom(3).hex()}"
        if self._noted and info.step not in self._noted:
            return token
        what = f"{function} {n} {info.run_id} {info.step} {info.attempt} {stage}"
        os.write(self._file, f"{what} {token} {','.join(seen) or '-'}\n".encode())
        if self._synced:
            os.fdatasync(self._file)
        return token


def deeds_of(path: Path, offset: int = 0) -> tuple[list[Deed], int]:
    """Read the whole lines of a life's ledger from an offset on; return where they end."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    life = int(path.name.rpartition("-")[2])
    return [_deed(life, line) for line in whole.decode().splitlines()], offset + len(whole)


def _deed(life: int, line: str) -> Deed:
    function, n, run, step, attempt, stage, token, seen = line.split(" ")
    tokens = () if seen == "-" else tuple(seen.split(","))
    return Deed(life, function, int(n), run, step, int(attempt), int(stage), token, tokens)


class Witness:
    """Writes down every confirmed decision (``effects.Watcher``): the process acts upon these."""

    def __init__(self, folder: Path, life: int) -> None:
        self._file = _opened(folder / f"confirmed-{life:05}")

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a confirmed decision."""
        data = codec.encode(decision)
        os.write(self._file, _HEAD.pack(owner.state.number, len(data)) + data)


def confirmed_in(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (partition, bytes of a decision) from a life's file."""
    data = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(data):
        number, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + size > len(data):
            return
        yield number, data[at : at + size]
        at += size


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
