"""What a replay's code asked for, in order, as text that two replays of one run can compare."""

import inspect
from dataclasses import dataclass, field

from stepfold import asked
from stepfold.asks import Pending
from stepfold.replay import TIMER, Ask, Outcome
from stepfold.steps import Body
from stepfold_engine.replaying.machine import Silent, place_of

_OURS = "stepfold"


@dataclass(frozen=True, slots=True)
class Heard:
    """Something that the code asked for.

    Attributes:
        text: what, with all that it was given; "" if that is not known.
        place: the file and the line.
    """

    kind: str
    name: str
    key: bytes
    text: str
    place: tuple[str, int] | None


@dataclass(slots=True)
class Trace(Silent):
    """Writes down what the code asks for, and what it gets.

    Attributes:
        asks: in order.
        given: names of what it got an outcome of, in order.
        texts: whether to write down also what is asked with; it takes time.
    """

    texts: bool = True
    asks: list[Heard] = field(default_factory=list[Heard])
    given_names: list[str] = field(default_factory=list[str])

    def asked(self, ask: Ask) -> None:
        """See ``Listener``."""
        text = text_of(ask) if self.texts else ""
        self.asks.append(Heard(ask.kind, ask.name, ask.key, text, place_of(ask)))

    def given(self, ask: Ask, outcome: Outcome) -> None:
        """See ``Listener``."""
        del outcome
        self.given_names.append(ask.name)

    @property
    def names(self) -> list[str]:
        """What was asked for."""
        return [heard.name for heard in self.asks]


def text_of(ask: Ask) -> str:
    """Write down what is asked for, the same for the same thing."""
    if not isinstance(ask, Pending):
        return TIMER
    if ask.item is not None:
        found = asked.of_report(ask.item)
        return found[1] if found is not None else ""
    assert ask.body is not None, "what is no operation is a step"
    return text_of_body(ask.body)


def text_of_body(body: Body) -> str:
    """Write down what a step's body is called with, and which variables around it it uses."""
    return asked.of_body(body) + _enclosed(body)


def _enclosed(body: Body) -> str:
    """Write down the variables that a step's body uses of the function around it."""
    if getattr(body.call, "__module__", "").partition(".")[0] == _OURS:
        return ""
    code, cells = getattr(body.call, "__code__", None), getattr(body.call, "__closure__", None)
    if not inspect.iscode(code) or not cells:
        return ""
    shown: list[str] = []
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            shown.append(f"{name}={asked.text_of(cell.cell_contents)}")
        except ValueError:
            continue  # not set yet
    return f" using {', '.join(shown)}" if shown else ""
