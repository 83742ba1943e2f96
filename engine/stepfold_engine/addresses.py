"""Addresses: what an event is called and where its home is, without making it ready for use.

Every partition reads every event, for it may be what somebody there waits for; most only need this.
"""

from collections import OrderedDict
from dataclasses import dataclass

from stepfold_engine.intake import Intake
from stepfold_engine.log.base import Record
from stepfold_schemas import codec
from stepfold_schemas.ids import partition_of

KEPT = 8_192
"""Addresses that are kept. The partitions of a process read side by side, so they need few."""


@dataclass(frozen=True, slots=True)
class Address:
    """An event's name, and the partition that is its home."""

    name: str
    home: int


class Addresses:
    """The addresses of the events that a process reads; each is found once for all partitions.

    Args:
        intake: reads events.
        partitions: of the journal.
    """

    def __init__(self, intake: Intake, partitions: int) -> None:
        self._intake, self._partitions = intake, partitions
        # Ordered: of a plain one the oldest is found the more slowly, the more were taken out.
        self._found: OrderedDict[tuple[str, int, int], Address | None] = OrderedDict()

    def of(self, topic: str, partition: int, record: Record) -> Address | None:
        """Return an event's address; None if it is to be read to know it.

        Raises:
            UndecodableError: it is not an event.
        """
        place = (topic, partition, record.offset)
        if place in self._found:
            return self._found[place]
        found = self._look(topic, partition, record)
        if len(self._found) >= KEPT:
            self._found.popitem(last=False)
        self._found[place] = found
        return found

    def _look(self, topic: str, partition: int, record: Record) -> Address | None:
        said = self._intake.said(topic, partition, record)
        if len(said) < 2:
            if codec.is_ours(record.value):
                return None
            said = self._intake.identity(topic, partition, record)
        return Address(said["name"], partition_of(said["id"], self._partitions))
