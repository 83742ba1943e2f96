"""A draft: the entries of one decision while they are gathered. Nothing is changed by it."""

from stepfold_engine.core.partition import Partition
from stepfold_schemas import codec
from stepfold_schemas.entries import Entry, MessageQueued
from stepfold_schemas.messages import Message


class Draft:
    """Gathers entries, and numbers the messages among them."""

    __slots__ = ("_numbers", "_state", "entries")

    def __init__(self, state: Partition) -> None:
        self.entries: list[Entry] = []
        self._state = state
        self._numbers: dict[int, int] = {}

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        self.entries.append(entry)

    def send(self, destination: int, message: Message) -> None:
        """Add a message for a partition, this one included."""
        last = self._numbers.get(destination)
        if last is None:
            last = self._state.queued.get(destination, 0)
        self._numbers[destination] = last + 1
        self.entries.append(MessageQueued(destination, last + 1, codec.encode(message)))
