"""The bridge between a plain function's thread and the loop, when its run is dropped."""

import asyncio
import contextvars
import threading

import pytest

from stepfold.errors import Parked
from stepfold.loop import UserLoop
from stepfold.origins import Origins, frame_at
from stepfold.scope import SCOPE, Scope
from stepfold.sync import ThreadBridge, _Request
from stepfold.threads import ThreadPool


class Idle:
    """A host that does nothing."""

    def quiescent(self) -> None: ...


def test_a_call_that_arrives_as_the_run_is_dropped_is_answered() -> None:
    """The main task hears of its cancellation a turn after it was cancelled."""
    loop, threads, over = UserLoop(), ThreadPool(1, "bridge"), threading.Event()
    scope = Scope(Idle(), Origins(__name__))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    bridge = ThreadBridge(loop, scope, threads, lambda: True)
    request = _Request(lambda: asyncio.sleep(0), frame_at(0))
    failed: list[object] = []
    loop.set_exception_handler(lambda _, context: failed.append(context))
    context = contextvars.copy_context()
    context.run(SCOPE.set, None)
    main = loop.create_task(bridge.run(lambda: over.wait(10)), context=context)

    def dropped_and_asked() -> None:
        main.cancel()
        bridge._take(request)

    loop.call_soon(loop.call_soon, dropped_and_asked)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(main)
    _, error = request.answer.get(timeout=10)
    assert isinstance(error, Parked)
    assert not failed
    over.set()
    threads.close()
    loop.close()
