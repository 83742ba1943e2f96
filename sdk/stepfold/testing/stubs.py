"""Stubs: what a test puts in the place of a step's body."""

import asyncio
import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_REPEAT = re.compile(r"^(.*):\d+$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a stub: an attempt that ran it instead of the step's body.

    Attributes:
        step: the step's name, with ``:1``, ``:2`` for repeats.
        attempt: which attempt of the step it was, from 1.
        args: what the body would have been given, copied when it was called.
        kwargs: the same, by name.
    """

    step: str
    attempt: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(slots=True)
class Stub:
    """What a step does in this test.

    Attributes:
        step: the step's id; with ``:1``, ``:2`` only that repeat of it.
        function: the full id of the function whose step is meant; "" for any.
        returns: what it returns, unless it raises or calls.
        raises: what it raises: an exception or its class.
        call: what is called instead of the body, with the body's arguments.
        times: how many attempts it serves; None for all.
        takes_s: how much virtual time an attempt takes, in seconds.
        calls: the attempts that ran it, in order.
    """

    step: str
    function: str = ""
    returns: Any = None
    raises: BaseException | type[BaseException] | None = None
    call: Callable[..., Any] | None = None
    times: int | None = None
    takes_s: float = 0.0
    calls: list[Call] = field(default_factory=list[Call])

    @property
    def spent(self) -> bool:
        """Whether it serves no further attempt."""
        return self.times is not None and len(self.calls) >= self.times

    def serves(self, function: str, step: str) -> bool:
        """Say whether it stands for this step of this function."""
        if self.spent or self.function not in ("", function):
            return False
        repeat = _REPEAT.match(step)
        return self.step == step or (repeat is not None and self.step == repeat[1])

    def body(self, call: Call) -> Callable[..., Any]:
        """Note a call; return what to run for it."""
        args, kwargs = kept(call.args), kept(call.kwargs)
        self.calls.append(Call(call.step, call.attempt, args, kwargs))

        async def run(*args: Any, **kwargs: Any) -> Any:
            if self.takes_s:
                await asyncio.sleep(self.takes_s)
            if isinstance(self.raises, BaseException):
                raise self.raises.with_traceback(None)
            if self.raises is not None:
                raise self.raises
            if self.call is None:
                return self.returns
            value = self.call(*args, **kwargs)
            return await value if asyncio.iscoroutine(value) else value

        return run


def kept(value: T) -> T:
    """Return a copy, which does not change when the value does; itself if it cannot be copied."""
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever copying somebody's object raises
        return value
