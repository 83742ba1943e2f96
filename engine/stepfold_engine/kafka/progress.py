"""How far a namespace has read, told to the consumer group, so that lag tools show the truth.

Every owner of a partition reads all events; so what the namespace has read of an events' partition
is the least that any owner has. Rules:

* The owner of a partition commits its place in its inbox, and, in the metadata of that commit, its
  places in all partitions that events are read from.
* Each of those is committed by one member, for which it takes the least of all owners' places. Who
  has not told yet holds it back: the lag that is shown is never too small.
* Nothing is ever read back into the engine: positions are part of the journal's fold.
"""

from collections.abc import Iterable, Mapping, Sequence

METADATA_CHARS_MAX = 4_000
"""Brokers take 4,096 bytes (``offset.metadata.max.bytes``): some 600 partitions of events."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

Place = tuple[str, int]
"""A topic's name in Kafka, and a partition."""


def written(places: Sequence[Place], positions: Mapping[Place, int]) -> str:
    """Return an owner's places in all partitions of events as metadata, in their order.

    What does not fit any more counts as not told.

    >>> written([("e", 0), ("e", 1), ("e", 2)], {("e", 0): 0, ("e", 2): 1295})
    '0,,zz'
    """
    text = ""
    for index, place in enumerate(places):
        position = positions.get(place)
        part = ("," if index else "") + ("" if position is None else _in_base_36(position))
        if len(text) + len(part) > METADATA_CHARS_MAX:
            break
        text += part
    return text


def _in_base_36(number: int) -> str:
    digits = ""
    while number or not digits:
        number, last = divmod(number, 36)
        digits = _DIGITS[last] + digits
    return digits


def read(places: Sequence[Place], metadata: str) -> dict[Place, int]:
    """Return the places that an owner told; nothing of what it cannot have written.

    >>> read([("e", 0), ("e", 1), ("e", 2)], "0,,zz")
    {('e', 0): 0, ('e', 2): 1295}
    """
    told: dict[Place, int] = {}
    for place, part in zip(places, metadata.split(","), strict=False):
        if part and set(part) <= set(_DIGITS):
            told[place] = int(part, 36)
    return told


def least(place: Place, told: Iterable[Mapping[Place, int]]) -> int | None:
    """Return how far all owners have read; None if one of them has not told.

    >>> least(("e", 0), [{("e", 0): 7}, {("e", 0): 5}]), least(("e", 1), [{("e", 1): 7}, {}])
    (5, None)
    """
    found = [one.get(place) for one in told]
    known = [position for position in found if position is not None]
    return min(known) if known and len(known) == len(found) else None
