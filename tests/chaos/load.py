"""The load: clients outside, that send events, signals and cancellations over HTTP.

They do as careful clients should: every event has an id, and is sent again with the same id until
a server has answered that it took it. What was answered is what must never be lost.
"""

import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stepfold
from tests.chaos.outside import deeds_of

KINDS = {
    "c/order": 10,
    "c/approval": 2,
    "c/signalled": 2,
    "c/pair": 1,
    "c/flaky": 2,
    "c/cancelled": 2,
    "c/failing": 1,
    "c/fan": 1,
    "c/plain": 2,
}
"""The events that are sent, and how often."""

TIMEOUT_S = 0.8
"""An answer that takes longer is not waited for: the client does not know then, and asks again."""

REST_S = 0.02
TWICE = 0.05
"""The share of acknowledged events that are sent once more, as careless clients do."""

UNANSWERED = (stepfold.ClientError, http.client.HTTPException, OSError)
"""What a client gets in the place of an answer. A process that dies while it answers leaves half
of one, which is an error of HTTP's own."""

LATER_S_MAX = 0.6
CALLS_PAUSE_S = 0.05
CALLERS = 8
"""How many calls are under way at the same time: an answer takes a few commits of the log."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An event with its id."""

    name: str
    id: str
    data: dict[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        """Return it as the client sends it."""
        return {"name": self.name, "data": self.data, "id": self.id}


@dataclass(slots=True)
class Counts:
    """What became of requests."""

    answers: int = 0
    unknown: int = 0
    full: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])


class Load:
    """Sends events at a bounded rate, and does for each what its run waits for.

    Args:
        seed: decides what is sent.
        outside: where the ledgers lie: they tell which runs wait for a call.
        rate: new events a second.
        first: the number of the first event.
        remember: keep what was acknowledged, for the audit.
    """

    def __init__(
        self, seed: str, outside: Path, rate: float, first: int = 0, *, remember: bool = True
    ) -> None:
        self._chance = random.Random(seed)
        self._outside, self._rate, self._remember = outside, rate, remember
        self.number = first
        self.acked: dict[str, Sent] = {}
        self.counts = Counts()
        self.problem = ""
        self._url = ""
        self._offering = self._ended = False
        self._outbox: deque[Sent] = deque()
        self._later: list[tuple[float, Sent]] = []
        self._in_flight = 0
        self._asked: dict[tuple[str, int], str] = {}
        self._read: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._callers = ThreadPoolExecutor(CALLERS)
        self._threads = [
            threading.Thread(target=self._loop, args=(turn,), daemon=True)
            for turn in (self._offer, self._publish, self._call)
        ]
        for thread in self._threads:
            thread.start()

    # What the round says.

    def serve(self, url: str) -> None:
        """Send to this server from now on; "" if there is none."""
        self._url = url

    def offer(self, going: bool) -> None:
        """Begin or cease to make new events. What was begun is carried on."""
        self._offering = going

    def add(self, event: Sent) -> None:
        """Send this event, too."""
        with self._lock:
            self._outbox.append(event)

    def tear(self, count: int) -> list[Sent]:
        """Make events whose sending somebody else tries first; they are sent as others are."""
        return [Sent("c/order", f"torn-{n}", {"n": n}) for n in self._numbers(count)]

    @property
    def settled(self) -> bool:
        """Everything is acknowledged, and every call was answered."""
        with self._lock:
            return not (self._outbox or self._later or self._in_flight or self._asked)

    def left(self) -> str:
        """Say in words what is not settled."""
        with self._lock:
            calls = list(self._asked)[:5]
            return f"{len(self._outbox) + self._in_flight} events, calls for {calls}"

    def close(self) -> None:
        """End the threads."""
        self._ended = True
        for thread in self._threads:
            thread.join(10)
        self._callers.shutdown()

    # The threads.

    def _loop(self, turn: Callable[[], float]) -> None:
        while not self._ended:
            try:
                time.sleep(turn())
            except Exception as error:
                self.problem = f"a client broke: {error!r}"
                raise

    def _numbers(self, count: int) -> range:
        with self._lock:
            self.number += count
            return range(self.number - count, self.number)

    def _offer(self) -> float:
        """Make new events, and move what is due from later to now."""
        pause_s = 8 / self._rate
        now_s = time.monotonic()
        with self._lock:
            due = [event for at, event in self._later if at <= now_s]
            self._later = [(at, event) for at, event in self._later if at > now_s]
            self._outbox.extend(due)
            waiting = len(self._outbox)
        # A client that is not answered does not pile up without end.
        if self._offering and waiting < 200:
            for n in self._numbers(8):
                self._begin(n)
        return pause_s

    def _begin(self, n: int) -> None:
        chance = self._chance
        (name,) = chance.choices(list(KINDS), list(KINDS.values()))
        event = Sent(name, f"{name}-{n}", {"n": n})
        later_s = time.monotonic() + chance.uniform(0, LATER_S_MAX)
        with self._lock:
            self._outbox.append(event)
            if name == "c/approval":
                data = {"n": n, "by": f"person {n}"}
                self._follow(event, Sent("c/approved", f"approved-{n}", data), later_s)
            if name == "c/cancelled":
                if n % 2:
                    self._follow(event, Sent("c/cancel", f"cancel-{n}", {"n": n}), later_s)
                else:
                    self._asked["c/cancelled", n] = ""
            if name == "c/signalled":
                self._asked["c/signalled", n] = ""

    def _follow(self, event: Sent, answer: Sent, at_s: float) -> None:
        """Send an event that the run of another waits for, acknowledged or not."""
        self._later.append((at_s, answer))

    def _publish(self) -> float:
        url = self._url
        with self._lock:
            batch = [self._outbox.popleft() for _ in range(min(len(self._outbox), 16))]
            self._in_flight = len(batch)
        if not batch or not url:
            self._put_back(batch)
            return REST_S
        taken = self._send(url, batch)
        with self._lock:
            if taken:
                self._acknowledged(batch)
            self._in_flight = 0
            if not taken:
                self._outbox.extendleft(reversed(batch))
        return 0.0 if taken else REST_S

    def _acknowledged(self, batch: Sequence[Sent]) -> None:
        if self._remember:
            self.acked.update((event.id, event) for event in batch)
        twice = [e for e in batch if self._chance.random() < TWICE and self._may_repeat(e)]
        self._later += [(time.monotonic() + 0.3, event) for event in twice]

    def _may_repeat(self, event: Sent) -> bool:
        return True

    def _put_back(self, batch: list[Sent]) -> None:
        with self._lock:
            self._outbox.extendleft(reversed(batch))
            self._in_flight = 0

    def _send(self, url: str, batch: list[Sent]) -> bool:
        try:
            ids = stepfold.Client(url, timeout_s=TIMEOUT_S).send([_new(e) for e in batch])
        except UNANSWERED as error:
            self._note(error)
            return False
        assert len(ids) == len(batch), "an answer for every event"
        self.counts.answers += 1
        return True

    def _note(self, error: Exception) -> None:
        status = error.status if isinstance(error, stepfold.ClientError) else None
        if status == 507:
            self.counts.full += 1
        elif status is None:
            self.counts.unknown += 1
        else:
            self.counts.refused[f"{status}: {str(error)[:120]}"] += 1

    # What runs wait for.

    def _call(self) -> float:
        """Signal and cancel the runs that are ready for it, until an answer or the ledger says
        that it was done."""
        self._look_at_ledgers()
        with self._lock:
            ready = [(key, run) for key, run in self._asked.items() if run]
        for _ in self._callers.map(self._call_one, ready):
            pass
        return CALLS_PAUSE_S

    def _call_one(self, asked: tuple[tuple[str, int], str]) -> None:
        key, run = asked
        url = self._url
        if url and self._called(stepfold.Client(url, timeout_s=TIMEOUT_S), key, run):
            with self._lock:
                self._asked.pop(key, None)

    def _called(self, client: stepfold.Client, key: tuple[str, int], run: str) -> bool:
        name, n = key
        try:
            if name == "c/signalled":
                return client.signal(f"go-{n}", n) is not None
            client.cancel(run)
        except stepfold.ClientError as error:
            # There is no such unfinished run any more: an earlier request was carried out.
            if error.status == 404:
                return True
            self._note(error)
            return False
        except UNANSWERED as error:
            self._note(error)
            return False
        return True

    def _look_at_ledgers(self) -> None:
        for path in sorted(self._outside.glob("ledger-*"))[-3:]:
            deeds, self._read[path] = deeds_of(path, self._read.get(path, 0))
            with self._lock:
                for deed in deeds:
                    key = (deed.function, deed.n)
                    if key not in self._asked:
                        continue
                    if deed.step == "got":
                        del self._asked[key]
                    else:
                        self._asked[key] = deed.run


def _new(event: Sent) -> stepfold.NewEvent:
    return stepfold.NewEvent(name=event.name, data=event.data, id=event.id)


def ask(url: str, path: str, timeout_s: float = 5.0) -> dict[str, Any] | None:
    """Ask a process something; None if it does not answer."""
    try:
        with urllib.request.urlopen(url + path, timeout=timeout_s) as answer:
            return json.loads(answer.read())
    except (urllib.error.URLError, TimeoutError, OSError, ValueError):
        return None
