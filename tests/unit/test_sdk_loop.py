"""The user loop: what it counts, marks and tells apart; and the one in virtual time."""

import asyncio
import contextvars
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from stepfold.loop import UserLoop
from stepfold.origins import Origins
from stepfold.scope import SCOPE, CoordinationFuture, EngineFuture, Scope
from stepfold.virtual import DeadlockError, VirtualLoop


class Host:
    def __init__(self) -> None:
        self.turns = 0
        self.timers: list[float] = []
        self.scope: Scope

    def quiescent(self) -> None:
        assert self.scope.ready == 0
        self.turns += 1

    def time_s(self) -> float:
        return 1_000.0

    def set_timer(
        self,
        delay_s: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        self.timers.append(delay_s)
        loop = asyncio.get_running_loop()
        return asyncio.TimerHandle(1e9, callback, args, loop, context)


@pytest.fixture(name="loop")
def _loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


@pytest.fixture(name="host")
def _host(loop: VirtualLoop) -> Host:
    assert loop
    host = Host()
    host.scope = Scope(host, Origins(__name__))
    return host


def enter(host: Host, loop: UserLoop, coroutine: Any) -> asyncio.Task[Any]:
    context = contextvars.copy_context()
    context.run(SCOPE.set, host.scope)
    return loop.create_task(coroutine, context=context)


def settle(loop: VirtualLoop, seconds: float = 0.0) -> None:
    loop.run_until_complete(asyncio.sleep(seconds))


def test_a_scope_is_quiescent_when_none_of_its_callbacks_is_ready(
    loop: VirtualLoop, host: Host
) -> None:
    async def code() -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return await asyncio.create_task(child())

    async def child() -> int:
        return 7

    task = enter(host, loop, code())
    assert loop.run_until_complete(task) == 7
    settle(loop)
    assert host.turns == 1
    assert host.scope.unended() == []


def test_cancelled_callbacks_do_not_count(loop: VirtualLoop, host: Host) -> None:
    handles: list[asyncio.Handle] = []

    async def code() -> None:
        running = asyncio.get_running_loop()
        handles.extend(running.call_soon(print) for _ in range(3))
        handles[0].cancel()
        handles[0].cancel()

    enter(host, loop, code())

    def cancel(number: int) -> None:
        handles[number].cancel()

    loop.call_soon(cancel, 1)
    loop.call_soon(cancel, 2)
    settle(loop, 1)
    assert host.scope.ready == 0
    assert host.turns >= 1


def test_what_a_run_waits_for_is_told_apart(loop: VirtualLoop, host: Host) -> None:
    event = asyncio.Event()

    async def waits_for_engine() -> None:
        await EngineFuture(loop=loop)

    async def waits_for_event() -> None:
        await event.wait()

    async def waits_for_io() -> None:
        await asyncio.Future[None]()

    async def gathers(*others: Any) -> None:
        await asyncio.gather(*others)

    async def waits(*others: Any) -> None:
        await asyncio.wait(others)

    async def shields(make: Callable[[], Any]) -> None:
        await asyncio.shield(make())

    def engine() -> asyncio.Future[Any]:
        return EngineFuture(loop=loop)

    cases: list[tuple[Any, bool]] = [
        (waits_for_engine, True),
        (waits_for_event, True),
        (waits_for_io, False),
        (lambda: gathers(waits_for_engine(), waits_for_event()), True),
        (lambda: gathers(waits_for_engine(), waits_for_io()), False),
        (lambda: gathers(asyncio.Future[None](loop=loop)), False),
        (lambda: waits(engine(), engine()), True),
        (lambda: waits(asyncio.Future[None](loop=loop)), False),
        (lambda: shields(engine), True),
        (lambda: shields(lambda: asyncio.Future[None](loop=loop)), False),
    ]
    for make, blocked in cases:
        host.scope = Scope(host, Origins(__name__))
        task = enter(host, loop, make())
        settle(loop)
        assert host.scope.blocked() is blocked, make
        for one in [task, *host.scope.unended()]:
            one.cancel()
        settle(loop)


def test_futures_are_marked_by_who_made_them(loop: VirtualLoop, host: Host) -> None:
    made: list[asyncio.Future[Any]] = []

    async def code() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        made.append(asyncio.get_running_loop().create_future())
        task = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0)
        made.append(task._fut_waiter)  # type: ignore[attr-defined] # pyright: ignore
        task.cancel()

    loop.run_until_complete(enter(host, loop, code()))
    assert [isinstance(future, CoordinationFuture) for future in made] == [False, True]
    settle(loop)


def test_timers_of_own_code_are_durable_and_those_of_libraries_are_not(
    loop: VirtualLoop, host: Host
) -> None:
    async def code() -> list[float]:
        running = asyncio.get_running_loop()
        running.call_later(5, print)
        running.call_at(1_007, print)
        async with asyncio.timeout(9):
            await asyncio.sleep(0)
        return [running.time()]

    assert loop.run_until_complete(enter(host, loop, code())) == [1_000.0]
    assert host.timers == [5, 7, 9]
    host.scope.origins = Origins("another")
    foreign: dict[str, Any] = {"__name__": "json.inside"}
    source = "import asyncio\nasync def code():\n    await asyncio.sleep(3)\n"
    exec(compile(source, json.__file__, "exec"), foreign)
    task = enter(host, loop, foreign["code"]())
    settle(loop)
    assert host.scope.timers == 1
    assert not host.scope.blocked()
    loop.run_until_complete(task)
    assert host.timers == [5, 7, 9]
    assert host.scope.timers == 0


@pytest.mark.parametrize(
    ("file", "module", "own"),
    [
        (__file__, "test", True),
        ("/srv/app/orders.py", "orders", True),
        (json.__file__, "json", False),
        (json.__file__, "json.inside", False),
        (asyncio.__file__, "asyncio", None),
        (sys.modules["stepfold"].__file__, "stepfold", False),
        ("<stdin>", "__main__", True),
    ],
)
def test_own_code_is_told_from_libraries(file: str, module: str, own: bool | None) -> None:
    names: dict[str, Any] = {"__name__": module, "sys": sys}
    exec(compile("frame = sys._getframe()", file, "exec"), names)
    assert Origins("app.functions").is_own_file(names["frame"]) is own


def test_a_package_that_is_installed_knows_its_own_code() -> None:
    names: dict[str, Any] = {"__name__": "json.inside", "sys": sys}
    exec(compile("frame = sys._getframe()", json.__file__, "exec"), names)
    assert Origins("json.functions").is_own_file(names["frame"]) is True


def test_virtual_time_jumps_to_the_next_timer(loop: VirtualLoop) -> None:
    before = loop.now_ms()

    async def code() -> float:
        await asyncio.sleep(86_400 * 30)
        async with asyncio.timeout(60):
            await asyncio.sleep(1.5)
        return asyncio.get_running_loop().time()

    assert loop.run_until_complete(code()) == pytest.approx(86_400 * 30 + 1.5)
    assert loop.now_ms() - before == 86_400_000 * 30 + 1_500


def test_virtual_time_stands_still_while_a_thread_works(loop: VirtualLoop) -> None:
    go_on = threading.Event()

    async def code() -> float:
        timer = asyncio.create_task(asyncio.sleep(5))
        loop.call_soon(go_on.set)
        await asyncio.to_thread(go_on.wait)
        at = loop.time()
        await timer
        return at

    assert loop.run_until_complete(code()) == 0.0
    assert loop.time() == 5.0


def test_virtual_time_does_not_wait_for_ever(loop: VirtualLoop) -> None:
    future: asyncio.Future[None] = loop.create_future()
    with pytest.raises(DeadlockError, match="never comes"):
        loop.run_until_complete(future)
