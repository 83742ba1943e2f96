"""What must come of an event: which functions it starts, and what each run comes to.

Told from the numbers alone, without the app's code (``features``).
"""

from dataclasses import dataclass, field
from typing import Any

STARTS = {
    "c/order": ("c-order",),
    "c/told": ("c-told",),
    "c/approval": ("c-approval",),
    "c/signalled": ("c-signalled",),
    "c/pair": ("c-left", "c-right"),
    "c/flaky": ("c-flaky",),
    "c/cancelled": ("c-cancelled",),
    "c/failing": ("c-failing",),
    "c/fan": ("c-fan",),
    "c/plain": ("c-plain",),
}
"""The functions that an event starts; any other event starts none."""

CHILDREN = {"c-order": (("c-double", 7), ("c-told", 11)), "c-failing": (("c-failing-failure", 1),)}
"""The functions of which a run starts one run, if its number is a multiple of so much."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What a run comes to.

    Attributes:
        end: ``completed``, ``failed`` or ``cancelled``.
        result: what the function returns, without its tokens.
        stages: the steps whose outcomes are its tokens, in order.
        tokens: whether the result holds them.
    """

    end: str
    result: Any = None
    stages: tuple[tuple[str, ...], ...] = ()
    tokens: bool = True


def fate(function: str, n: int) -> Fate:
    """Return what a run of this function comes to."""
    match function:
        case "c-double":
            return Fate("completed", 2 * n, (("double",),), tokens=False)
        case "c-told" | "c-failing-failure":
            return Fate("completed", {"n": n}, tokens=False)
        case "c-failing":
            return Fate("failed", None, (("begin",),), tokens=False)
        case "c-cancelled":
            return Fate("cancelled", None, (("begin",),), tokens=False)
        case _:
            return Fate("completed", {"n": n, **_more(function, n)}, _STAGES[function])


def _more(function: str, n: int) -> dict[str, object]:
    match function:
        case "c-order":
            doubled = 2 * n if n % 7 == 0 else None
            told = n if n % 11 == 0 else None
            return {"doubled": doubled, "told": told, "silence": True if n % 13 == 0 else None}
        case "c-approval":
            return {"by": f"person {n}"}
        case "c-signalled":
            return {"said": n, "deaf": True if n % 4 == 0 else None}
        case "c-left":
            return {"said": n}
        case "c-flaky":
            return {"attempt": 2}
        case "c-fan":
            return {"late": True}
        case _:
            return {}


_STAGES = {
    "c-order": (("create",), ("charge", "reserve"), ("ship",)),
    "c-approval": (("ask",), ("grant",)),
    "c-signalled": (("ready",), ("got",)),
    "c-left": (("heard",),),
    "c-right": (("speak",),),
    "c-flaky": (("first",), ("flaky",), ("last",)),
    "c-fan": (tuple(f"part-{i}" for i in range(6)), ("join",)),
    "c-plain": (("one",), ("two",), ("three",)),
}


@dataclass(slots=True)
class Findings:
    """What an audit found wrong, in words: what is lost, what is doubled, what is wrong else."""

    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.wrong)

    def lines(self, count_max: int) -> list[str]:
        """Return them as lines, the first few of each kind."""
        found: list[str] = []
        for kind in ("lost", "doubled", "wrong"):
            said: list[str] = getattr(self, kind)
            found += [f"{kind.upper()}: {one}" for one in said[:count_max]]
            if len(said) > count_max:
                found.append(f"{kind.upper()}: and {len(said) - count_max} more")
        return found
