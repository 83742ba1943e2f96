"""The load: a producer outside appends events to the topic, clients signal and cancel over HTTP.

The producer does as a careful one should: it sends an event again, with the same id, until the
broker has acknowledged it. To which partition it sends hangs on nothing, as with other clients'
partitioners: a copy that is sent again lies elsewhere.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import stepfold
from stepfold_engine.errors import LogError
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import EVENTS
from stepfold_engine.readers import event_record
from stepfold_schemas.events import Event
from tests.chaos.load import CALLS_PAUSE_S, LATER_S_MAX, Load, Sent
from tests.chaos.outside import deeds_of

_T = TypeVar("_T")

ANSWER_S = 5.0
"""How long a client waits for an answer before it asks another process."""

APPEND_S_MAX = 120.0


class Outside:
    """A log on Kafka, used from threads: what producers and auditors outside hold."""

    def __init__(self, properties: ClientProperties, names: TopicNames) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        now_ms = lambda: time.time_ns() // 1_000_000  # noqa: E731 - the clock
        self.log = self.do(KafkaLog.connect(properties, names, now_ms))

    def do(self, work: Coroutine[Any, Any, _T], seconds: float = APPEND_S_MAX) -> _T:
        """Do this in the log's own loop; wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        """Let go of the broker."""
        self.do(self.log.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class TopicLoad(Load):
    """Appends events to the topic, and does for each what its run waits for.

    Args:
        seed: decides what is sent.
        folder: where the ledgers lie.
        rate: new events a second.
        outside: the log.
        partitions: of the events.
    """

    def __init__(
        self, seed: str, folder: Path, rate: float, outside: Outside, partitions: int
    ) -> None:
        self._kafka, self._partitions = outside, partitions
        self._where = random.Random(seed)
        self._urls: Sequence[str] = ()
        self._following: dict[str, list[Sent]] = {}
        super().__init__(seed, folder, rate)
        self.serve("topic")

    def ask_at(self, urls: Sequence[str]) -> None:
        """Send calls to these processes from now on."""
        self._urls = list(urls)

    def _send(self, url: str, batch: list[Sent]) -> bool:
        try:
            self._kafka.do(self._append(batch))
        except LogError as error:
            self._note(error)
            return False
        self.counts.answers += 1
        return True

    async def _append(self, batch: Sequence[Sent]) -> None:
        appends = [
            self._kafka.log.append(
                EVENTS,
                self._where.randrange(self._partitions),
                [event_record(Event(event.name, json.dumps(event.data).encode(), event.id))],
            )
            for event in batch
        ]
        for done in await asyncio.gather(*appends, return_exceptions=True):
            if isinstance(done, BaseException):
                raise done

    def _follow(self, event: Sent, answer: Sent, at_s: float) -> None:
        # Partitions have no common order: what is sent beside an event, or before a copy of it, may
        # be appended before it, and is not found by a run that looks back to its beginning.
        self._following.setdefault(event.id, []).append(answer)

    def _acknowledged(self, batch: Sequence[Sent]) -> None:
        super()._acknowledged(batch)
        for event in batch:
            for answer in self._following.pop(event.id, ()):
                later_s = time.monotonic() + self._where.uniform(0, LATER_S_MAX)
                self._later.append((later_s, answer))

    def _may_repeat(self, event: Sent) -> bool:
        return event.id not in self._following

    def _call(self) -> float:
        return super()._call() if self._urls else CALLS_PAUSE_S

    def _call_one(self, asked: tuple[tuple[str, int], str]) -> None:
        key, run = asked
        if not (urls := self._urls):
            return
        client = stepfold.Client(self._where.choice(urls), timeout_s=ANSWER_S)
        if self._called(client, key, run):
            with self._lock:
                self._asked.pop(key, None)

    def _look_at_ledgers(self) -> None:
        # Any life may go on with any run: all of them are looked at.
        for path in sorted(self._outside.glob("ledger-*")):
            deeds, self._read[path] = deeds_of(path, self._read.get(path, 0))
            with self._lock:
                for deed in deeds:
                    key = (deed.function, deed.n)
                    if deed.step == "got":
                        self._asked.pop(key, None)
                    elif key in self._asked:
                        self._asked[key] = deed.run

    def close(self) -> None:
        """End the threads, and let go of the broker."""
        super().close()
        self._kafka.close()
