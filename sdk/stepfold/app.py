"""Apps: a set of durable functions under one id."""

import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, overload

from stepfold.client import Client
from stepfold.context import Context
from stepfold.durations import Duration
from stepfold.events import NewEvent, Sendable, listed
from stepfold.function import Function, FunctionOptions
from stepfold.options import CancelOn, Debounce, Retry, Trigger
from stepfold.scope import SCOPE
from stepfold.sync import SyncContext

R = TypeVar("R")

_log = logging.getLogger("stepfold")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ID_CHARS_MAX = 128


class Publisher(Protocol):
    """An engine in this process, as far as an app needs it."""

    async def publish(self, events: Sequence[NewEvent]) -> list[str]:
        """Append events durably; return their ids."""
        ...


class FunctionDecorator(Protocol):
    """What ``app.function(…)`` returns: it turns a Python function into a durable one."""

    @overload
    def __call__(self, call: Callable[[Context], Coroutine[Any, Any, R]], /) -> Function[R]: ...
    @overload
    def __call__(self, call: Callable[[SyncContext], R], /) -> Function[R]: ...


class App:
    """A set of durable functions.

    Attributes:
        id: the app's id; the first part of its functions' full ids.
        engine: the engine that runs in this process, if one does. It sets this itself; events
            then go to it and not over HTTP.
    """

    def __init__(self, id: str) -> None:  # noqa: A002 - the author's word
        _check_id("app", id)
        self.id = id
        self.engine: Publisher | None = None
        self._functions: dict[str, Function[Any]] = {}
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"<stepfold app {self.id}: {len(self._functions)} functions>"

    @property
    def functions(self) -> Mapping[str, Function[Any]]:
        """The app's functions by full id, failure handlers included."""
        return MappingProxyType(self._functions)

    def function(  # noqa: PLR0913 - every option of a function, all but the first by name
        self,
        id: str,  # noqa: A002 - the author's word
        *,
        on: str | Trigger | Sequence[str | Trigger] | None = None,
        if_: str | None = None,
        cron: str | Sequence[str] | None = None,
        retries: int | Retry | None = None,
        idempotency: str | None = None,
        debounce: Debounce | Duration | None = None,
        cancel_on: CancelOn | Sequence[CancelOn] | None = None,
        start_timeout: Duration | None = None,
        finish_timeout: Duration | None = None,
        name: str | None = None,
        version: str | None = None,
        pin: bool = False,
    ) -> FunctionDecorator:
        """Make a Python function durable.

        It is an ``async def`` that takes a ``Context``, or a ``def`` that takes a ``SyncContext``.

        Args:
            id: its id in the app. It stays the same for ever; ``name`` may change.
            on: the event that starts it, a ``Trigger``, or several; none if ``cron`` starts it, or
                it is only invoked.
            if_: a CEL expression over ``event`` that must be true, if ``on`` is one event's name.
            cron: a cron expression at whose times it starts, or several: ``0 9 * * 1-5`` in UTC,
                ``TZ=Europe/Paris 0 9 * * 1-5`` elsewhere. Its event is then
                ``stepfold/cron.fired``, whose data has ``cron`` and ``scheduled_at``.
            retries: how often its own code is tried again when it raises, and each of its steps,
                unless they say otherwise; 4 if not given.
            idempotency: a CEL expression over ``event``, or a path such as ``data.order_id``:
                within a day, events with the same value start it once.
            debounce: how long no other event must come before the last one starts it, or a
                ``Debounce``.
            cancel_on: events that cancel its runs.
            start_timeout: a run that has not begun after this long is cancelled.
            finish_timeout: a run that has not ended after this long is cancelled.
            name: a name for people; the Python function's name if not given.
            version: the version that runs record; part of the code's fingerprint if not given.
            pin: go on only with runs that began with this version; others wait for theirs.

        Raises:
            ValueError: there is a function with this id, or an option is not well formed.
        """
        _check_id("function", id)
        given = FunctionOptions(
            on=on,
            if_=if_,
            cron=cron,
            retries=retries,
            idempotency=idempotency,
            debounce=debounce,
            cancel_on=cancel_on,
            start_timeout=start_timeout,
            finish_timeout=finish_timeout,
            name=name,
            version=version,
            pin=pin,
        )
        return self._decorator(f"{self.id}-{id}", given)

    def _decorator(self, full_id: str, given: FunctionOptions) -> FunctionDecorator:
        def decorate(call: Callable[..., Any], /) -> Function[Any]:
            function = Function[Any](full_id, call, given, self)
            self.add(function)
            return function

        return decorate

    def add(self, function: Function[Any], /) -> None:
        """Take a function in; ``function`` does it for what it makes.

        Raises:
            ValueError: there is a function with this id.
        """
        known = self._functions.get(function.id)
        if known is not None:
            msg = (
                f"two functions have the id {function.id}: {_place(known)} and {_place(function)};"
                " give one of them another id"
            )
            raise ValueError(msg)
        self._functions[function.id] = function

    async def send(
        self,
        event: Sendable | Sequence[Sendable] | None = None,
        *,
        name: str | None = None,
        data: Mapping[str, Any] | None = None,
        id: str | None = None,  # noqa: A002 - the author's word
        ts: datetime | int | None = None,
    ) -> list[str]:
        """Send one event or several; return the ids they were given when they were taken in.

        They go to the engine in this process if there is one, else over HTTP to the server at
        ``$STEPFOLD_URL``. In a durable function use ``ctx.step.send_event``, which sends once.

        Args:
            event: an event or a list of events; or give one by ``name``, ``data``, ``id``, ``ts``.
            name: see ``NewEvent``.
            data: see ``NewEvent``.
            id: see ``NewEvent``.
            ts: see ``NewEvent``.

        Raises:
            ValueError: an event is not well formed, or was refused.
            ClientError: the server refused the events, or could not be reached.
        """
        if event is None:
            if name is None:
                raise ValueError("nothing to send: give an event, or its name")
            event = NewEvent(name, data or {}, id, ts)
        elif name is not None or data is not None or id is not None or ts is not None:
            raise ValueError("give either an event, or its name, data, id and ts, not both")
        events = listed(event)
        if SCOPE.get() is not None:
            _log.warning(
                "app.send(%r) in a durable function, outside its steps: when the run is replayed"
                " it sends again; use ctx.step.send_event",
                events[0].name if events else "",
            )
        if self.engine is not None:
            return await self.engine.publish(events)
        if self._client is None:
            self._client = Client()
        return await self._client.send_async(events)


def _check_id(what: str, id: str) -> None:  # noqa: A002 - the author's word
    if not isinstance(id, str) or not _ID.fullmatch(id) or len(id) > _ID_CHARS_MAX:  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        msg = (
            f"{what} id {id!r}: use letters, digits, '-', '_' and '.', beginning with a letter or"
            f" a digit, at most {_ID_CHARS_MAX} characters"
        )
        raise ValueError(msg)


def _place(function: Function[Any]) -> str:
    code = getattr(function.call, "__code__", None)
    if code is None:
        return function.call.__module__
    return f"{code.co_filename}:{code.co_firstlineno}"
