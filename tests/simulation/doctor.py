"""For the auditor's tests: the ledger of a healthy life of the engine, and ways to falsify it."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.log.base import Batch, Bounds, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision, Entry
from stepfold_schemas.ids import parse_ulid
from tests.behaviour.scenario import Scenario, Variant
from tests.simulation.ledger import Fault, Happening, Ledger, Seen, Told, Trimmed, Written
from tests.simulation.programs import Plan, app_of

E = TypeVar("E")
H = TypeVar("H", Written, Seen, Told, Trimmed)


class RecordingLog:
    """One process's view of a log, with all that it writes noted in a ledger."""

    def __init__(self, log: MemoryLog, ledger: Ledger, by: str, now_ms: Callable[[], int]) -> None:
        self._log, self._ledger, self._by, self._now_ms = log, ledger, by, now_ms

    async def partitions(self, topic: str) -> int:
        return await self._log.partitions(topic)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        end = (await self._log.bounds(topic, partition)).end
        for offset, r in enumerate(records, end):
            order, at_ms = self._ledger.next_order, self._now_ms()
            self._ledger.add(
                Written(order, topic, partition, offset, at_ms, r.value, r.key, r.headers, self._by)
            )
        base = await self._log.append(topic, partition, records)
        assert base == end, "nothing is written between"
        return base

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        return await self._log.read(topic, partition, offset, bytes_max=bytes_max, wait_ms=wait_ms)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        return await self._log.bounds(topic, partition)

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        return await self._log.offset_at(topic, partition, at_ms)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        self._ledger.add(Trimmed(self._ledger.next_order, topic, partition, before))
        await self._log.trim(topic, partition, before)

    async def close(self) -> None:
        await self._log.close()


class _Hooks:
    """What one life of a process gives to its programs: it notes what they do and see."""

    def __init__(self, scenario: "RecordedScenario", process: str) -> None:
        self._scenario, self._process = scenario, process

    def seen(self, run: str, what: str, step: str = "", attempt: int = 0, value: str = "") -> None:
        ledger, at_ms = self._scenario.ledger, self._scenario.clock.now_ms()
        ledger.add(Seen(ledger.next_order, at_ms, self._process, run, what, step, attempt, value))

    async def die(self) -> None:
        raise AssertionError("no body of these programs kills its process")

    async def block(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def flaky(self, run: str, step: str, attempt: int) -> random.Random:
        return random.Random(f"{run}/{step}/{attempt}")


class RecordedScenario(Scenario):
    """A plan's app on the engine; every start is a life of its own, and all is in a ledger."""

    def __init__(self, plan: Plan, variant: Variant, folder: Path, **settings: Any) -> None:
        self.plan, self.ledger, self._life = plan, Ledger(), 0
        super().__init__(variant, app_of(plan, _Hooks(self, "")), folder, settings)
        assert isinstance(self.log, MemoryLog), "other logs are not recorded"
        self._memory = self.log

    def start(self) -> None:
        self._life += 1
        process = f"p.{self._life}"
        self.log = RecordingLog(self._memory, self.ledger, process, self.clock.now_ms)
        self.app = app_of(self.plan, _Hooks(self, process))
        super().start()

    def crash(self) -> None:
        order, at_ms = self.ledger.next_order, self.clock.now_ms()
        self.ledger.add(Fault(order, at_ms, "crash", f"p.{self._life}"))
        super().crash()

    # What callers do and hear.

    def _tell(self, what: str, name: str, value: str = "") -> None:
        order, at_ms = self.ledger.next_order, self.clock.now_ms()
        self.ledger.add(Told(order, at_ms, what, name, value))

    def publish(self, name: str, id_: str, **data: Any) -> None:
        self._tell("published", self.send(name, data, id=id_))

    def signal_to(self, name: str, data: Any) -> None:
        self._tell("signalled", name, self.signal(name, data) or "")

    def cancel(self, run: str) -> None:
        with suppress(RequestRefusedError):
            self.do(self.node.cancel(parse_ulid(run), "asked to"))
            self._tell("cancelled", run)


class Doctor:
    """Falsifies a copy of a ledger. Every method changes the first place that fits."""

    def __init__(self, ledger: Ledger) -> None:
        self._items: list[Happening] = list(ledger.happenings)

    def ledger(self) -> Ledger:
        """Return what it has become, numbered anew."""
        items: list[Happening] = [replace(h, order=i) for i, h in enumerate(self._items)]
        return Ledger(items)

    # Happenings.

    def index(self, kind: type[H], fits: Callable[[H], bool] = lambda _: True) -> int:
        """Return where the first happening of a kind that fits is."""
        for index, happening in enumerate(self._items):
            if isinstance(happening, kind) and fits(happening):
                return index
        raise AssertionError(f"no such {kind.__name__}")

    def at(self, index: int) -> Any:
        return self._items[index]

    def put(self, index: int, happening: Happening) -> None:
        """Put a happening in place of another."""
        self._items[index] = happening

    def insert(self, index: int, happening: Happening) -> None:
        self._items.insert(index, happening)

    def append(self, happening: Happening) -> None:
        self._items.append(happening)

    def move(self, index: int, to: int) -> None:
        """Let a happening be earlier or later."""
        self._items.insert(to, self._items.pop(index))

    def swap(self, one: int, other: int) -> None:
        items = self._items
        items[one], items[other] = items[other], items[one]

    def remove(self, index: int) -> None:
        del self._items[index]

    def cut(self, index: int) -> None:
        """Let nothing happen from here on."""
        del self._items[index:]

    def change(
        self, kind: type[H], fits: Callable[[H], bool] = lambda _: True, **fields: Any
    ) -> None:
        index = self.index(kind, fits)
        self._items[index] = replace(self._items[index], **fields)

    # Events.

    def change_event(self, id_: str, **fields: Any) -> bytes:
        """Change an event in the log; return it as it lies there now."""

        def fits(w: Written) -> bool:
            return w.topic == "events" and codec.decode_event(w.value).id == id_

        index = self.index(Written, fits)
        changed = codec.encode(replace(codec.decode_event(self.at(index).value), **fields))
        self._items[index] = replace(self.at(index), value=changed)
        return changed

    # Journals.

    def find(self, kind: type[E], fits: Callable[[E], bool] = lambda _: True) -> tuple[int, int]:
        """Return the place of the first entry that fits: where its record is, and where in it."""
        for index in self.records():
            for place, entry in enumerate(self.decision(index).entries):
                if isinstance(entry, kind) and fits(entry):
                    return index, place
        raise AssertionError(f"no such {kind.__name__}")

    def records(self) -> list[int]:
        """Return where the records of journals are."""
        return [
            index
            for index, happening in enumerate(self._items)
            if isinstance(happening, Written) and happening.topic == "journal"
        ]

    def entries(self, kind: type[E]) -> list[E]:
        """Return all entries of a kind."""
        every = (entry for index in self.records() for entry in self.decision(index).entries)
        return [entry for entry in every if isinstance(entry, kind)]

    def decision(self, index: int) -> Decision:
        return codec.decode_decision(self.at(index).value)

    def entry(self, kind: type[E], fits: Callable[[E], bool] = lambda _: True) -> E:
        index, place = self.find(kind, fits)
        found = self.decision(index).entries[place]
        assert isinstance(found, kind), "it was found as one"
        return found

    def rewrite(self, index: int, **fields: Any) -> None:
        """Change a record of a journal."""
        value = codec.encode(replace(self.decision(index), **fields))
        self._items[index] = replace(self.at(index), value=value)

    def edit(self, kind: type[E], fits: Callable[[E], bool] = lambda _: True, **fields: Any) -> int:
        """Change an entry; return where its record is."""
        index, place = self.find(kind, fits)
        entries: list[Any] = list(self.decision(index).entries)
        entries[place] = replace(entries[place], **fields)
        self.rewrite(index, entries=entries)
        return index

    def duplicate(self, kind: type[E], fits: Callable[[E], bool] = lambda _: True) -> None:
        """Let an entry stand twice in its record."""
        index, place = self.find(kind, fits)
        entries = self.decision(index).entries
        self.rewrite(index, entries=[*entries[: place + 1], *entries[place:]])

    def add(self, index: int, entry: Entry) -> None:
        """Add an entry to a record."""
        self.rewrite(index, entries=[*self.decision(index).entries, entry])

    def delete(self, kind: type[E], fits: Callable[[E], bool] = lambda _: True) -> None:
        """Take an entry out of its record."""
        index, place = self.find(kind, fits)
        entries = self.decision(index).entries
        self.rewrite(index, entries=[*entries[:place], *entries[place + 1 :]])


def data_of(**fields: Any) -> bytes:
    """Return the data of an event."""
    return json.dumps(fields).encode()
