"""The account that a program's code gives of what it has seen."""

import json
from typing import Any
from zlib import crc32


class Account:
    """What a program's code has seen.

    Attributes:
        total: the accumulator: a hash of all outcomes in their order.
        seen: name and value of each; an error's value is ``!`` and its name.
        got: how many outcomes there were.
    """

    def __init__(self) -> None:
        self.total, self.got = 0, 0
        self.seen: list[list[Any]] = []

    def note(self, name: str, value: Any) -> None:
        """Add an outcome."""
        self.got += 1
        self.add(name, value)

    def add(self, name: str, value: Any) -> None:
        """Add something that the code worked out by itself."""
        text = json.dumps([name, value], sort_keys=True)
        self.total = crc32(text.encode(), self.total)
        self.seen.append([name, value])

    def result(self) -> dict[str, Any]:
        """Return what the program returns."""
        return {"total": self.total, "seen": self.seen}
