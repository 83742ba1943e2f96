"""The embedded log under SIGKILL: what was acknowledged is there, in order, once."""

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepfold_engine.log.base import JOURNAL
from stepfold_engine.log.embedded import EmbeddedLog

ROUNDS = 20
SEED = 20_261_121

WRITER = """
import asyncio, sys, time
from pathlib import Path
from stepfold_engine.log.base import JOURNAL, NewRecord
from stepfold_engine.log.embedded import EmbeddedLog

async def main():
    log = EmbeddedLog.open(Path(sys.argv[1]), 1, lambda: time.time_ns() // 10**6)
    for warning in log.warnings:
        print("warning", warning, flush=True)
    number = (await log.bounds(JOURNAL, 0)).end
    print("ready", number, flush=True)
    async def one(value):
        await log.append(JOURNAL, 0, [NewRecord(b"%d " % value + b"x" * (value % 3000))])
        return value
    while True:
        values = range(number, number + 7)
        await asyncio.gather(*(one(v) for v in values))
        number += 7
        print("acknowledged", number - 1, flush=True)

asyncio.run(main())
"""


async def numbers(folder: Path) -> list[int]:
    log = EmbeddedLog.open(folder, None, lambda: 0)
    end = (await log.bounds(JOURNAL, 0)).end
    found: list[int] = []
    offset = 0
    while offset < end:
        batch = await log.read(JOURNAL, 0, offset)
        found += [int(r.value.split()[0]) for r in batch.records]
        offset = batch.next_offset
    await log.close()
    return found


@pytest.mark.process
def test_acknowledged_records_survive_sigkill_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print("seed", SEED)
    acknowledged = -1
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline().startswith(("ready", "warning"))
            time.sleep(chance.uniform(0.0, 0.25))  # the moment of the kill
            writer.kill()
            rest = writer.stdout.read()
        lines = [line.split() for line in rest.splitlines() if line.startswith("acknowledged ")]
        # The kill may cut the last line.
        whole = [int(line[1]) for line in (lines if rest.endswith("\n") else lines[:-1])]
        acknowledged = max([acknowledged, *whole])
        found = asyncio.run(numbers(tmp_path))
        assert found == list(range(len(found)))
        assert len(found) > acknowledged
    assert acknowledged > 100
