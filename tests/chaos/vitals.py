"""What a process tells of its own size: tasks, timers, objects, and where memory grew."""

import asyncio
import gc
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

from stepfold.worker import NativeWorker
from stepfold_engine.log.base import TOPICS
from stepfold_engine.node import Node
from stepfold_engine.owner import Owner
from stepfold_schemas.entries import Decision, RunCancelled, RunCompleted, RunFailed, RunStarted

_ENDS = (RunCompleted, RunFailed, RunCancelled)
GROWTH_LINES = 40


class Vitals:
    """Counts what is confirmed (``effects.Watcher``), and measures the process on demand."""

    def __init__(self, folder: Path, *, trace: bool) -> None:
        self._folder = folder
        self._trace = trace
        self._before: tracemalloc.Snapshot | None = None
        self._kinds: Counter[str] = Counter()
        self.started = self.ended = self.decisions = 0
        if trace:
            tracemalloc.start(12)

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a confirmed decision."""
        self.decisions += 1
        for entry in decision.entries:
            self.started += isinstance(entry, RunStarted)
            self.ended += isinstance(entry, _ENDS)

    async def measured(self, node: Node) -> dict[str, Any]:
        """Return figures of the process and its log."""
        names = [thread.name for thread in threading.enumerate()]
        pooled = sum(name.startswith("stepfold-step-") for name in names)
        found: dict[str, Any] = {
            "started": self.started,
            "ended": self.ended,
            "decisions": self.decisions,
            "tasks": len(asyncio.all_tasks()) + _tasks_of_worker(node),
            "timers": _timers(asyncio.get_running_loop()) + _timers(_loop_of_worker(node)),
            "threads": len(names) - pooled,
            "step_threads": pooled,
            "objects": len(gc.get_objects()),
            "log_bytes": _size(self._folder, "log.db"),
            "wal_bytes": _size(self._folder, "log.db-wal"),
            "history_bytes": _size(self._folder, "history.db"),
        }
        for topic in TOPICS:
            bounds = [await node.log.bounds(topic, n) for n in range(node.partitions)]
            found[f"{topic}_records"] = sum(b.end - b.start for b in bounds)
        states = node.states()
        found["runs"] = sum(len(s.runs) for s in states)
        found["remembered"] = sum(len(keys) for s in states for keys in s.ended.values())
        found["requests"] = sum(len(s.requests) for s in states)
        found["rounds"] = sum(s.round for s in states)
        return found

    def growth(self) -> dict[str, Any]:
        """Return where memory grew since this was asked last, and which kinds of objects did."""
        gc.collect()
        kinds = Counter(type(o).__qualname__ for o in gc.get_objects())
        more = kinds - self._kinds
        self._kinds = kinds
        lines: list[str] = []
        if self._trace:
            now = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)]
            )
            if self._before is not None:
                compared = now.compare_to(self._before, "traceback")
                lines = [
                    f"{s.size_diff:+} bytes, {s.count_diff:+} blocks: "
                    + " < ".join(s.traceback.format(4)[::-1][:8])
                    for s in compared[:GROWTH_LINES]
                ]
            self._before = now
        return {"kinds": dict(more.most_common(GROWTH_LINES)), "lines": lines}


def _loop_of_worker(node: Node) -> asyncio.AbstractEventLoop | None:
    worker = node.native.worker
    return worker.loop if isinstance(worker, NativeWorker) else None


def _tasks_of_worker(node: Node) -> int:
    loop = _loop_of_worker(node)
    if loop is None:
        return 0
    try:
        return len(asyncio.all_tasks(loop))
    except RuntimeError:  # the other thread changed the set, again and again
        return 0


def _timers(loop: asyncio.AbstractEventLoop | None) -> int:
    scheduled: list[object] = getattr(loop, "_scheduled", [])
    return len(scheduled)


def _size(folder: Path, name: str) -> int:
    path = folder / name
    return path.stat().st_size if path.exists() else 0
