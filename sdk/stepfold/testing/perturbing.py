"""Perturbing: what differs from one time to the next is made to differ, and its use is noted.

While a ``Perturbation`` is in force, a function's own code (not that of libraries) that asks for
the time or for an environment variable may get another answer; that it asked is noted with file
and line. No body of a step may run meanwhile.
"""

import datetime as dt
import os
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from types import FrameType, ModuleType
from typing import Any

from stepfold.origins import Origins, frame_at
from stepfold.testing.records import place

TIME, ENVIRONMENT = "time", "environment"

SHIFT = dt.timedelta(days=400, hours=7, minutes=13)
"""How far clocks are set ahead: another year, month, weekday, hour and minute."""

_SHIFT_S = SHIFT.total_seconds()

_CLOCKS: dict[tuple[ModuleType, str], float] = {
    (time, "time"): _SHIFT_S,
    (time, "time_ns"): _SHIFT_S * 1e9,
}
"""Functions that tell the time, and how much is added."""

_WATCHED: dict[ModuleType, str] = {
    time: "monotonic monotonic_ns perf_counter perf_counter_ns localtime gmtime ctime",
    random: "random randint randrange choice choices sample shuffle uniform gauss getrandbits",
    uuid: "uuid1 uuid4",
    secrets: "token_hex token_bytes token_urlsafe randbelow choice",
    os: "urandom getpid",
}
"""Functions that give something else every time as it is; their use is only noted."""


class Perturbation:
    """Conditions that differ from those of the recording.

    Args:
        kinds: ``time``, ``environment``, both or none; what is not in it is only noted.
        origins: says which code is the function's own.
    """

    def __init__(self, kinds: frozenset[str], origins: Origins) -> None:
        self._kinds, self._origins = kinds, origins
        self.used: dict[str, None] = {}

    @contextmanager
    def in_force(self) -> Generator[None]:
        """Perturb while the block runs."""
        with ExitStack() as stack:
            replaced: dict[int, object] = {}
            for module, name, double in self._doubles():
                original = getattr(module, name)
                replaced[id(original)] = double
                _put(stack, module, name, double)
            replaced |= self._datetimes()
            for module in self._own_modules():
                for name, value in list(vars(module).items()):
                    if id(value) in replaced:
                        _put(stack, module, name, replaced[id(value)])
            yield

    def note(self, what: str, frame: FrameType) -> bool:
        """Note that own code uses something; return False for code of libraries."""
        if not self._origins.is_own_file(frame):
            return False
        self.used[f"{what} at {place(frame.f_code.co_filename, frame.f_lineno)}"] = None
        return True

    def _own_modules(self) -> list[ModuleType]:
        found: list[ModuleType] = []
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            ours = module.__name__.startswith("stepfold")
            if isinstance(file, str) and not ours and self._origins.is_own(file, module.__name__):
                found.append(module)
        return found

    def _doubles(self) -> Iterator[tuple[ModuleType, str, object]]:
        for (module, name), shift in _CLOCKS.items():
            yield module, name, self._clock(module, name, shift)
        for module, names in _WATCHED.items():
            for name in names.split():
                yield module, name, self._watched(module, name)
        environ = _Environment(self, os.environ, perturbs=ENVIRONMENT in self._kinds)
        yield os, "environ", environ
        yield os, "getenv", environ.getenv

    def _clock(self, module: ModuleType, name: str, shift: float) -> Callable[[], Any]:
        original = getattr(module, name)
        added = type(original())(shift if TIME in self._kinds else 0)

        def tell() -> Any:
            own = self.note(f"{module.__name__}.{name}()", frame_at(1))
            return original() + added if own else original()

        return tell

    def _watched(self, module: ModuleType, name: str) -> Callable[..., Any]:
        original = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.note(f"{module.__name__}.{name}()", frame_at(1))
            return original(*args, **kwargs)

        return call

    def _datetimes(self) -> dict[int, object]:
        """Return what stands for ``datetime``'s classes, and for the module itself."""
        shift = SHIFT if TIME in self._kinds else dt.timedelta(0)
        dates = _date_double(self, shift)
        datetimes = _datetime_double(self, shift)
        module = ModuleType("datetime", dt.__doc__)
        vars(module).update(vars(dt))
        vars(module).update(datetime=datetimes, date=dates)
        return {
            id(dt.datetime): datetimes,
            id(dt.date): dates,
            id(dt): module,
        }


def _put(stack: ExitStack, module: ModuleType, name: str, value: object) -> None:
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)


class _Like(type):
    """The type of classes that stand for another one."""

    real: type

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.real)


def _date_double(noting: Perturbation, shift: dt.timedelta) -> type:
    real = dt.date

    class Date(dt.date, metaclass=_Like):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return real(*args, **kwargs)

        @classmethod
        def today(cls) -> Any:
            own = noting.note("date.today()", frame_at(1))
            return real.today() + shift if own else real.today()

    Date.real = real
    return Date


def _datetime_double(noting: Perturbation, shift: dt.timedelta) -> type:
    real = dt.datetime

    def now(frame: FrameType, what: str, tz: dt.tzinfo | None) -> Any:
        own = noting.note(f"datetime.{what}()", frame)
        return real.now(tz) + shift if own else real.now(tz)

    class DateTime(dt.datetime, metaclass=_Like):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return real(*args, **kwargs)

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return now(frame_at(1), "now", tz)

        @classmethod
        def today(cls) -> Any:
            return now(frame_at(1), "today", None)

        @classmethod
        def utcnow(cls) -> Any:
            return now(frame_at(1), "utcnow", dt.UTC).replace(tzinfo=None)

    DateTime.real = real
    return DateTime


class _Environment(MutableMapping[str, str]):
    """The environment, with other values for the function's own code."""

    def __init__(
        self, noting: Perturbation, real: MutableMapping[str, str], *, perturbs: bool
    ) -> None:
        self._noting, self._real, self._perturbs = noting, real, perturbs

    def _read(self, name: str, default: Any, frame: FrameType) -> Any:
        value = self._real.get(name, default)
        own = self._noting.note(f"os.environ[{name!r}]", frame)
        return _other(value) if own and self._perturbs else value

    def __getitem__(self, name: str) -> str:
        missing = object()
        found = self._read(name, missing, frame_at(1))
        if found is missing:
            raise KeyError(name)
        value: str = found
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Return a variable, or the default."""
        return self._read(name, default, frame_at(1))

    def getenv(self, name: str, default: Any = None) -> Any:
        """Return a variable, or the default; stands for ``os.getenv``."""
        return self._read(name, default, frame_at(1))

    def __contains__(self, name: object) -> bool:
        own = self._noting.note(f"{name!r} in os.environ", frame_at(1))
        return (name in self._real) is not (own and self._perturbs)

    def __setitem__(self, name: str, value: str) -> None:
        self._real[name] = value

    def __delitem__(self, name: str) -> None:
        del self._real[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._real)

    def __len__(self) -> int:
        return len(self._real)

    def __or__(self, other: Any) -> dict[str, str]:
        return {**self._real, **other}

    def copy(self) -> dict[str, str]:
        """Return the variables as a dict."""
        return dict(self._real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _other(value: object) -> object:
    """Return another value of the same kind, as far as that can be told."""
    if not isinstance(value, str):
        return "1" if value is None else value
    if value.lstrip("-").isdigit():
        return str(int(value) + 1)
    flags = {"true": "false", "false": "true", "yes": "no", "no": "yes", "on": "off", "off": "on"}
    return flags.get(value.lower(), f"{value}-other")
