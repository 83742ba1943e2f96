"""What the bodies of random programs' steps do, and what the simulation gives them for it."""

import asyncio
import json
import random
from collections import Counter
from typing import Any, Protocol
from zlib import crc32

import stepfold
from tests.simulation.statements import Failure, Step


class Hooks(Protocol):
    """What a simulated process gives to the programs that run in it."""

    def seen(self, run: str, what: str, step: str = "", attempt: int = 0, value: str = "") -> None:
        """Write down what a program did or saw; see ``ledger.Seen``."""
        ...

    async def die(self) -> None:
        """Kill the simulated process at once; never return."""
        ...

    async def block(self, seconds: float) -> None:
        """Block the loop for so long, in virtual time."""
        ...

    def flaky(self, run: str, step: str, attempt: int) -> random.Random:
        """Return a source of random numbers that is the same for the same arguments."""
        ...


class PlannedError(Exception):
    """What programs raise."""


Deaths = Counter[tuple[str, str]]
"""How often a step (run, name) has killed its process; it outlives the processes."""


def value_of(seed: int, function: str, step: str, run: str, given: int) -> int:
    """Return what a step's body returns: from 1 to 9, a pure function of the arguments.

    ``given`` is the accumulator when the step was asked for.
    """
    return crc32(f"{seed}/{function}/{step}/{run}/{given}".encode()) % 9 + 1


class Bodies:
    """The bodies of one function's steps."""

    def __init__(self, seed: int, function: str, hooks: Hooks, deaths: Deaths | None) -> None:
        self.seed, self.function, self.hooks, self.deaths = seed, function, hooks, deaths

    async def run(self, step: Step, given: int) -> Any:
        """Be the body of a step."""
        info = stepfold.step_info()
        run, name, attempt = info.run_id, info.step, info.attempt
        self.hooks.seen(run, "body-began", name, attempt)
        try:
            await self._work(step, run, name, attempt)
        except Exception as error:
            self.hooks.seen(run, "body-raised", name, attempt, json.dumps(str(error)))
            raise
        value: Any = value_of(self.seed, self.function, name, run, given)
        if step.pad:
            value = {"value": value, "pad": "x" * step.pad}
        self.hooks.seen(run, "body-ended", name, attempt, json.dumps(value))
        return value

    async def _work(self, step: Step, run: str, name: str, attempt: int) -> None:
        if step.blocks_s:
            await self.hooks.block(step.blocks_s)
        fails = attempt <= step.fails
        if fails and step.how == "slow":
            await asyncio.sleep(step.timeout_s * 3)
        if step.takes_s:
            await asyncio.sleep(step.takes_s)
        if attempt == 1 and self.deaths is not None and self.deaths[run, name] < step.kills:
            self.deaths[run, name] += 1
            await self.hooks.die()
        if fails:
            raise planned(step.how, f"attempt {attempt} of {name} fails, as planned")
        if step.flaky and self.hooks.flaky(run, name, attempt).random() < step.flaky:
            raise PlannedError(f"attempt {attempt} of {name} fails by chance")


def planned(how: Failure, text: str) -> Exception:
    """Return what is raised to fail in a given way."""
    match how:
        case "final":
            return stepfold.NonRetriableError(text)
        case "later":
            return stepfold.RetryAfterError(text, 1.5)
        case "error" | "slow":
            return PlannedError(text)
