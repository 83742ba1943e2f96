"""Functions: what ``app.function`` makes of a plain Python function."""

import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, NoReturn, Protocol, TypeVar, overload

from stepfold import options, serde
from stepfold.context import Context
from stepfold.durations import Duration, limit_ms
from stepfold.fingerprint import fingerprint
from stepfold.options import CancelOn, Debounce, Retry, Trigger
from stepfold.origins import Origins
from stepfold.serde import Reader, reader_of
from stepfold.sync import SyncContext
from stepfold_schemas import entries, strict

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

FAILURE_SUFFIX = "-failure"
FAILURE_RETRIES = 1
NAME_CHARS_MAX = 255
_VERSION_CHARS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionOptions:
    """What may be said about a function; see ``App.function``."""

    on: str | Trigger | Sequence[str | Trigger] | None = None
    if_: str | None = None
    cron: str | Sequence[str] | None = None
    retries: int | Retry | None = None
    idempotency: str | None = None
    debounce: Debounce | Duration | None = None
    cancel_on: CancelOn | Sequence[CancelOn] | None = None
    start_timeout: Duration | None = None
    finish_timeout: Duration | None = None
    name: str | None = None
    version: str | None = None
    pin: bool = False


class Home(Protocol):
    """The app that a function belongs to, as far as the function knows it."""

    def add(self, function: "Function[Any]", /) -> None:
        """Take a function in."""
        ...


class Function(Generic[R_co]):
    """A durable function.

    It is not called directly: an event starts it, or another function invokes it.

    Attributes:
        id: its full id, ``<app>-<id>``.
        name: its name for people.
        call: the Python function itself.
        is_async: whether that is an ``async def``.
        app: the app that it belongs to.
        failure: the function that handles its failures, if there is one.
        pinned: it goes on only with runs that began with its version.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the author's word
        call: Callable[..., object],
        given: FunctionOptions,
        app: Home,
    ) -> None:
        if not callable(call):
            raise TypeError(f"function {id!r}: a Python function is needed, not {call!r}")
        if inspect.isasyncgenfunction(call) or inspect.isgeneratorfunction(call):
            raise TypeError(f"function {id!r}: a function that yields cannot be durable")
        self.id, self.call = id, call
        self.name = given.name or str(getattr(call, "__name__", id))
        self.is_async = inspect.iscoroutinefunction(call)
        self.failure: Function[Any] | None = None
        self.origins = Origins(call.__module__)
        self.app = app
        self._spec = _declared(self, given)
        self.pinned = given.pin
        self.__doc__ = call.__doc__
        self.__name__ = str(getattr(call, "__name__", id))
        self.__module__ = call.__module__

    def __repr__(self) -> str:
        return f"<stepfold function {self.id}>"

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a durable function is started by an event, or invoked by another one."""
        msg = (
            f"{self.id} is a durable function and is not called directly: send an event that"
            f" starts it, or write ctx.step.invoke(…, function={self.__name__}) in another one"
        )
        raise TypeError(msg)

    @property
    def version(self) -> str:
        """The version that its runs begin with."""
        return self._spec.version

    def spec(self) -> entries.FunctionSpec:
        """Return the function as it is declared to the engine."""
        return replace(self._spec, on_failure=self.failure.id if self.failure else "")

    def read(self, data: bytes) -> R_co:
        """Read a result back from JSON, as the return annotation says."""
        reader = self.reader or serde.loads
        result: R_co = reader(data)
        return result

    @cached_property
    def reader(self) -> Reader | None:
        """What reads its result back from JSON, if its return annotation asks for more."""
        # Not before it is needed: the annotation may name what is defined further down.
        return reader_of(self.call)

    @overload
    def on_failure(self, call: Callable[[Context], Coroutine[Any, Any, R]], /) -> "Function[R]": ...
    @overload
    def on_failure(self, call: Callable[[SyncContext], R], /) -> "Function[R]": ...
    def on_failure(self, call: Callable[..., Any], /) -> "Function[Any]":
        """Have this called when a run of the function has failed for good.

        ``ctx.event`` is then ``stepfold/function.failed``, its data ``function_id``, ``run_id``,
        ``event`` (what had started the run) and ``error`` (``name``, ``message``, ``stack``).

        Raises:
            ValueError: it has a failure handler already.
        """
        if self.failure is not None:
            raise ValueError(f"function {self.id} has a failure handler already")
        given = FunctionOptions(retries=FAILURE_RETRIES)
        failure = Function[Any](self.id + FAILURE_SUFFIX, call, given, self.app)
        self.app.add(failure)
        self.failure = failure
        return failure


def _declared(function: Function[Any], given: FunctionOptions) -> entries.FunctionSpec:
    """Return what is declared of a function; refuse what is not well formed."""
    try:
        strict.check_text("its name", function.name, NAME_CHARS_MAX)
        strict.check_text("its version", given.version or "", NAME_CHARS_MAX)
        mark = fingerprint(function.call)
        triggers = options.triggers(given.on, given.if_)
        return entries.FunctionSpec(
            function.id,
            function.name,
            given.version or mark[:_VERSION_CHARS],
            mark,
            triggers,
            options.retry_policy(given.retries),
            options.key_expression(given.idempotency),
            options.cancellations(given.cancel_on),
            limit_ms(given.start_timeout, "start_timeout"),
            limit_ms(given.finish_timeout, "finish_timeout"),
            crons=options.crons(given.cron, besides=len(triggers)),
            debounce=options.debounce(given.debounce),
        )
    except ValueError as error:
        raise ValueError(f"function {function.id}: {error}") from error
    except TypeError as error:
        raise TypeError(f"function {function.id}: {error}") from error
