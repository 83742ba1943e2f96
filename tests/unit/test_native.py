"""A run's code waits for the search for older cancellations, of the owner that the run has now."""

import asyncio
import time
from collections.abc import Sequence

from stepfold_engine.answers import Answers
from stepfold_engine.clock import SystemClock
from stepfold_engine.core.partition import Partition
from stepfold_engine.effects import ProcessEffects
from stepfold_engine.intake import EVENTS_ONLY
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.lookbacks import LogLookbacks
from stepfold_engine.matching import CelMatching
from stepfold_engine.native import Native
from stepfold_engine.owner import Owner
from stepfold_engine.settings import Settings
from stepfold_schemas.entries import RetryPolicy, RunStarted
from stepfold_schemas.events import Event
from stepfold_schemas.ids import run_id, run_key


async def nothing(events: Sequence[Event]) -> list[str]:
    return []


async def nobody(name: str, data: bytes, request: bytes) -> bytes | None:
    return None


def test_what_a_lost_owner_found_says_nothing_to_the_next() -> None:
    async def main() -> None:
        log = MemoryLog(1, lambda: time.time_ns() // 1_000_000)
        native, matching = Native(log, nothing, nobody), CelMatching()
        lookbacks = LogLookbacks(log, matching, EVENTS_ONLY, await EVENTS_ONLY.inputs(log))
        effects = ProcessEffects(native, lookbacks, Answers(log))
        native.look_back = lambda _owner, _entry: True  # a search begins

        def owner() -> Owner:
            made = Owner(log, SystemClock(), matching, effects, Settings())
            made.state = Partition(0, 1)
            return made

        run = run_id(1, run_key(0, "t-f", "event e"))
        first = RunStarted(run, "t-f", "1", "", [], [], False, 0, 0, 0, RetryPolicy(), [], "", None)
        older, newer = owner(), owner()
        native.owns(older)
        assert native._looks_back(older, first)
        native.leave(0)  # fenced
        native.looked_back(older, run)
        native.owns(newer)  # and won back
        assert native._looks_back(newer, first)
        native.looked_back(older, run)
        assert native._looks_back(newer, first)
        native.looked_back(newer, run)
        assert not native._looks_back(newer, first)

    asyncio.run(main())
