"""The live feed: confirmed entries of runs, as they happen, for people who watch.

Nobody who watches slows the engine down: who is too slow loses entries and is told how many.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress

from stepfold.port import Fact
from stepfold_engine.facts import facts_of
from stepfold_engine.owner import Owner
from stepfold_engine.wire.models import fact_body
from stepfold_schemas.entries import Decision, HistoryRestated, RunStarted
from stepfold_schemas.ids import key_of

BACKLOG_MAX = 10_000
"""How many entries wait for one watcher."""

HEARTBEAT_S = 5.0
Item = tuple[bytes, str, Fact]
"""A run, its function ("" if it has ended already), and an entry of its journal."""


def news_of(decision: Decision) -> Iterator[tuple[bytes, Fact]]:
    """Yield (run id, fact) for what happened to runs: a history that is copied is no news."""
    if not any(isinstance(entry, HistoryRestated) for entry in decision.entries):
        yield from facts_of(decision)


class Subscription:
    """One watcher's backlog."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Item | None] = asyncio.Queue(BACKLOG_MAX)
        self.dropped = 0

    def put(self, item: Item | None) -> None:
        """Add an entry, or count it if there is no room. None is the end."""
        try:
            self.items.put_nowait(item)
        except asyncio.QueueFull:
            self.dropped += 1
            if item is None:
                self.items.get_nowait()
                self.items.put_nowait(None)


class LiveFeed:
    """Hands confirmed entries to those who watch (``effects.Watcher``)."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a decision (``effects.Watcher``)."""
        if not self._subscriptions:
            return
        for run, fact in news_of(decision):
            if isinstance(fact.entry, RunStarted):
                function = fact.entry.function
            else:
                state = owner.state.runs.get(key_of(run))
                function = state.function if state is not None else ""
            for subscription in self._subscriptions:
                subscription.put((run, function, fact))

    def subscribe(self) -> Subscription:
        """Begin to watch."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        if self._closed:
            subscription.put(None)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Watch no longer."""
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End all streams: the engine stops."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.put(None)

    async def lines(self) -> AsyncGenerator[bytes]:
        """Yield newline-delimited JSON: an entry a line, and an empty object now and then."""
        subscription = self.subscribe()
        try:
            yield b"{}\n"
            while True:
                item: Item | bool | None = False
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        item = await subscription.items.get()
                if item is None:
                    return
                if subscription.dropped:
                    yield json.dumps({"dropped": subscription.dropped}).encode() + b"\n"
                    subscription.dropped = 0
                if isinstance(item, tuple):
                    run, function, fact = item
                    body = fact_body(run, fact, function)
                    yield json.dumps(body, ensure_ascii=False).encode() + b"\n"
                else:
                    yield b"{}\n"
        finally:
            self.unsubscribe(subscription)
