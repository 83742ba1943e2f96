"""What happened in a simulation: every record that ever lay in the log, and what programs did.

One counter, ``order``, numbers all of it, so that an auditor can say what was durable when.
Times are true virtual time, milliseconds since 1970; processes may have clocks that differ.
"""

from dataclasses import dataclass, field

from stepfold_engine.log.base import Headers


@dataclass(frozen=True, slots=True)
class Written:
    """A record from the moment at which it was durable. ``at_ms`` is the log's time of it."""

    order: int
    topic: str
    partition: int
    offset: int
    at_ms: int
    value: bytes
    key: bytes
    headers: Headers
    by: str


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Records below ``before`` were removed."""

    order: int
    topic: str
    partition: int
    before: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Something that a program's code did or saw.

    Attributes:
        process: the name of the process's life: one that starts again has another.
        run: the run's id as text.
        what: ``began`` (the function's code, from its start; also each time it is replayed),
            ``body-began`` and ``body-ended`` and ``body-raised`` (a step's body; ``step`` and
            ``attempt`` are set), ``outcome`` (the code was given a value for an operation),
            ``error`` (it was given an error), ``cancelled`` (the code cancelled an operation, or
            lost interest in it), ``returned``, ``raised``.
        step: the name under which the operation was asked for, unique within the run.
        value: JSON text: what the body returned, what the code got, or the error's text.
    """

    order: int
    at_ms: int
    process: str
    run: str
    what: str
    step: str = ""
    attempt: int = 0
    value: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller outside was told.

    ``what``: ``published`` (``name`` is the event's internal id), ``cancelled``, ``signalled``
    (``value``: the run that got it, or ""), ``reran`` (``name`` is the new run, ``value`` the old
    one), ``refused``, ``unknown`` (an error after which the caller cannot know).
    """

    order: int
    at_ms: int
    what: str
    name: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that the simulator did to the engine: ``crash``, ``pause``, ``lost append``…"""

    order: int
    at_ms: int
    what: str
    process: str = ""
    more: str = ""


Happening = Written | Trimmed | Seen | Told | Fault


@dataclass(slots=True)
class Ledger:
    """Everything, in order."""

    happenings: list[Happening] = field(default_factory=list[Happening])

    @property
    def next_order(self) -> int:
        return len(self.happenings)

    def add(self, happening: Happening) -> None:
        assert happening.order == len(self.happenings), "the ledger numbers what happens"
        self.happenings.append(happening)
