"""The stage: one log, and the processes that live on it one after the other.

When a process dies, the next one starts at the same virtual instant on what is in the log, and
whatever was asked for goes on there; its caller does not notice.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stepfold.app import App
from stepfold.events import NewEvent, written
from stepfold.function import Function
from stepfold.testing.bodies import Bodies
from stepfold.testing.lives import Cast, Life
from stepfold.testing.loop import KitLoop
from stepfold.testing.points import Points
from stepfold.testing.witness import Witness
from stepfold_engine.crons import due_after
from stepfold_engine.errors import InvalidOptionError
from stepfold_engine.expressions import compile_expression
from stepfold_engine.log.base import EVENTS, INBOX, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.readers import event_record
from stepfold_engine.settings import Settings
from stepfold_schemas import codec
from stepfold_schemas.entries import RequestAnswered
from stepfold_schemas.events import Event
from stepfold_schemas.ids import partition_of, run_id, ulid_text
from stepfold_schemas.messages import FROM_NODE, Letter, Message

PARTITIONS = 1

TOLERANCE_MS = 1e-3
"""What is due this much later is due: times are sums of floats."""

THREADS_S_MAX = 30.0
"""How long, on the real clock, bodies in threads of a killed process are waited for."""

LOOK_EVERY_MS = 10**12
"""Virtual clocks do not jump, so timers need not look for that."""


class Stage:
    """Runs an app's processes on one log, and lets time pass.

    Args:
        app: the app.
        functions: its functions by full id, or what a test puts in their place.
        start_ms: the virtual time at the start.
        settings: of the engine.
        points: who says where a process dies.
    """

    def __init__(
        self,
        app: App,
        functions: Mapping[str, Function[Any]],
        start_ms: int,
        settings: Settings,
        points: Points,
    ) -> None:
        self.functions = functions
        self.witness = Witness(PARTITIONS)
        self.bodies = Bodies(self.witness)
        self.own: set[str] = set()
        self._app, self._before = app, app.engine
        given = settings.model_copy(update={"look_at_clock_every_ms": LOOK_EVERY_MS})
        self._cast = Cast(app.id, functions, given, self.witness, self.bodies, points)
        self._start_ms = start_ms
        self._life: Life | None = None
        self._dead: list[Life] = []
        self._asked = 0
        self._closed = False

    # Processes.

    @property
    def life(self) -> Life:
        """The process that lives now; the first begins when it is asked for."""
        if self._closed:
            raise RuntimeError("the test environment is closed")
        if self._life is None:
            check_expressions(self.functions.values())
            loop = KitLoop(self._start_ms)
            log = MemoryLog(PARTITIONS, loop.now_ms)
            self._life = Life(self._cast, log, loop, 1)
            self._app.engine = InTest(self)
            self.settle()
            assert self._life.armed, "an engine starts without time passing"
        return self._life

    @property
    def lives(self) -> int:
        """How many processes there have been."""
        return len(self._dead) + (self._life is not None)

    def kill(self) -> None:
        """Kill the process; another one starts at once."""
        self.life.die()
        self.settle()

    def _start_again(self, dead: Life) -> None:
        self.bodies.wait_for_threads(THREADS_S_MAX)
        self._dead.append(dead)
        loop = KitLoop(dead.loop.now_ms())
        log = MemoryLog(PARTITIONS, loop.now_ms, like=dead.log)
        self._life = Life(self._cast, log, loop, dead.number + 1)

    def close(self) -> None:
        """End all processes, the dead ones too. Doing it twice is doing it once."""
        if self._closed:
            return
        self._closed = True
        self._app.engine = self._before
        lives = [*self._dead, *([self._life] if self._life is not None else [])]
        with contextlib.ExitStack() as stack:
            for life in lives:
                stack.callback(life.close)

    # Time.

    def now_ms(self) -> int:
        """Return the virtual wall clock, in milliseconds since 1970."""
        return self._start_ms if self._life is None else self._life.loop.now_ms()

    def run(self, goes_on: Callable[[float], bool]) -> None:
        """Run; whenever nothing is ready, ask whether time may pass to the next timer's, in ms."""
        while True:
            life = self.life
            if life.dead:
                self._start_again(life)
                continue
            start_ms = life.loop.start_ms
            life.loop.turn(lambda next_s, at=start_ms: goes_on(at + next_s * 1000))  # type: ignore[misc]
            if not life.dead:
                life.check()
                return

    def run_until(self, at_ms: float) -> None:
        """Let time pass until then, and everything happen that is due by then."""
        self.run(lambda next_ms: next_ms <= at_ms + TOLERANCE_MS)
        self.life.loop.jump(at_ms)

    def settle(self) -> None:
        """Let everything happen that can happen without time passing."""
        now_ms = self.life.loop.exact_ms
        self.run(lambda next_ms: next_ms <= now_ms + TOLERANCE_MS)

    def under_way(self, run: bytes) -> Sequence[str]:
        """Return the names of the steps of a run whose bodies run now."""
        return self.bodies.under_way(run)

    # What the outside world does.

    def publish(self, event: Event) -> str:
        """Append an event; return its internal id."""
        now_ms = self.life.loop.now_ms()
        internal = ulid_text(run_id(now_ms, self._entropy(10)))
        stamped = Event(
            event.name, event.data, event.id, event.ts or now_ms, event.user, internal, now_ms
        )
        self.own.add(internal)
        where = partition_of(stamped.id or internal, PARTITIONS)
        self._put(EVENTS, where, event_record(stamped))
        return internal

    def tell(self, partition: int, message: Message) -> bytes:
        """Put a request into a partition's inbox; return its id."""
        request = self._entropy(16)
        letter = Letter(FROM_NODE, 0, request, codec.encode(message))
        self._put(INBOX, partition, NewRecord(codec.encode(letter)))
        return request

    def ask(self, partition: int, message: Message) -> RequestAnswered:
        """Ask a partition for something; return its answer."""
        request = self.tell(partition, message)
        self.settle()
        answer = self.witness.answer(request)
        assert answer is not None, "a partition answers at once"
        return answer

    def _put(self, topic: str, partition: int, record: NewRecord) -> None:
        life = self.life
        offset = life.log.put(topic, partition, [record])
        self.witness.landed(topic, partition, offset, [record], life.loop.now_ms())

    def _entropy(self, size: int) -> bytes:
        """Return bytes that are the same whenever the same test runs."""
        self._asked += 1
        return hashlib.sha512(f"test/{self._asked}".encode()).digest()[:size]


class InTest:
    """The engine, as ``app.send`` uses it while a test runs (``stepfold.app.Publisher``)."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def publish(self, events: Sequence[NewEvent]) -> list[str]:
        """Append events; return their ids."""
        stage = self._stage
        made = [written(event, now_ms=stage.now_ms()) for event in events]
        if asyncio.get_running_loop() is stage.life.loop:
            return await stage.life.node.publish(made)
        ids = [stage.publish(event) for event in made]
        stage.settle()
        return ids


def check_expressions(functions: Iterable[Function[Any]]) -> None:
    """Refuse functions whose options hold an expression that cannot be used.

    Raises:
        InvalidOptionError: the message names function, option and what is wrong.
    """
    for spec in (function.spec() for function in functions):
        expressions = {f"the trigger {t.event}": t.expression for t in spec.triggers}
        expressions |= {f"cancel_on {c.event}": c.expression for c in spec.cancel_on}
        expressions["idempotency"] = spec.idempotency
        expressions["debounce"] = spec.debounce.key if spec.debounce is not None else ""
        for where, expression in expressions.items():
            try:
                if expression:
                    compile_expression(expression)
            except InvalidOptionError as error:
                raise InvalidOptionError(f"function {spec.id}, {where}: {error}") from error
        for cron in spec.crons:
            try:
                due_after(cron, 0)
            except InvalidOptionError as error:
                raise InvalidOptionError(f"function {spec.id}: {error}") from error
