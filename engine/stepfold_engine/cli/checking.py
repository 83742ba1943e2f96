"""Replaying many runs in several processes."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

from stepfold_engine.cli.loading import Target, load
from stepfold_engine.replaying.machine import Machine, story_of
from stepfold_engine.replaying.verdicts import RAISES, UNREADABLE, Verdict, judge
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.runfile import ExportedRun

BATCH = 50
BATCHES_AHEAD = 4
RUN_S_MAX = 30
"""How long the code of one run may take between its steps, all together."""

_machine: Machine | None = None


class TookTooLongError(BaseException):
    """Code that is replayed does not come to its end. It must pass through user code."""


def check(
    target: Target,
    runs: Sequence[ExportedRun],
    processes: int,
    progress: Callable[[int, int], None],
) -> list[Verdict]:
    """Replay runs against the app in a file; return their verdicts, in order.

    Raises:
        LoadError: the file cannot be used.
        BrokenProcessPool: code outside steps has ended its process.
    """
    load(target)  # tells what is wrong with it, before many processes do
    batches = [list(runs[i : i + BATCH]) for i in range(0, len(runs), BATCH)]
    found: dict[int, list[Verdict]] = {}
    for number, verdicts in _judged(target, batches, min(processes, len(batches))):
        found[number] = verdicts
        progress(sum(map(len, found.values())), len(runs))
    return [verdict for number in sorted(found) for verdict in found[number]]


def _judged(
    target: Target, batches: Sequence[list[ExportedRun]], processes: int
) -> Iterator[tuple[int, list[Verdict]]]:
    if not batches:
        return
    pool = ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_begin, initargs=(target,)
    )
    with pool:
        waiting: dict[Future[list[Verdict]], int] = {}
        for number, batch in enumerate(batches):
            encoded = [codec.encode(run) for run in batch]
            waiting[pool.submit(_judge_all, encoded)] = number
            while len(waiting) >= processes * BATCHES_AHEAD:
                yield from _done(waiting)
        while waiting:
            yield from _done(waiting)


def _done(waiting: dict[Future[list[Verdict]], int]) -> Iterator[tuple[int, list[Verdict]]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()


# In each process.


def _begin(target: Target) -> None:
    global _machine  # noqa: PLW0603 - one for each process of the pool
    # What code prints, logs or asks of a debugger was seen when it ran.
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    sys.breakpointhook = lambda *_, **__: None
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _machine = Machine(load(target).functions)


def _too_long(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise TookTooLongError(f"its code does not come to an end within {RUN_S_MAX} s")


def _judge_all(encoded: Sequence[bytes]) -> list[Verdict]:
    return [_judge(codec.decode_run(data)) for data in encoded]


def _judge(run: ExportedRun) -> Verdict:
    assert _machine is not None, "made when the process began"
    about = (ulid_text(run.run), run.function, run.status)
    signal.alarm(RUN_S_MAX)
    try:
        story = story_of(run)
        return judge(_machine, story)
    except (UndecodableError, ValueError) as error:
        return Verdict(*about, UNREADABLE, text=str(error))
    except TookTooLongError as error:
        return Verdict(*about, RAISES, text=str(error), advice="Find the loop that does not end.")
    finally:
        signal.alarm(0)
