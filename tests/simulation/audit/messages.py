"""Messages between partitions: numbered without a gap, sent once durable, taken once, in order."""

from collections import defaultdict

from stepfold_schemas.entries import MessageQueued, MessagesSent, MessageTaken
from stepfold_schemas.messages import FROM_NODE, MessageUndeliverable
from tests.simulation.audit.findings import MESSAGE
from tests.simulation.audit.world import World

_Stream = tuple[int, int]
"""From which partition to which."""


def check(world: World) -> None:
    """Check every message's way from its entry to the one that says that it was taken."""
    queued = _check_queued(world)
    _check_letters(world)
    _check_sent(world)
    taken = _check_taken(world)
    if world.setup.settled:
        for (source, destination), number in queued.items():
            got = taken.get((source, destination), 0)
            if got < number:
                text = (
                    f"partition {source} queued {number} messages for partition {destination},"
                    f" which took {got}"
                )
                world.findings.add(MESSAGE, text)


def _check_queued(world: World) -> dict[_Stream, int]:
    last: dict[_Stream, int] = defaultdict(int)
    for fact in world.of(MessageQueued):
        kept, entry = fact.kept, fact.entry
        stream = (kept.partition, entry.destination)
        if entry.number == last[stream] + 1:
            last[stream] = entry.number
            continue
        name = f"message {entry.number} of partition {stream[0]} for {stream[1]}"
        if entry.number > last[stream]:
            text = f"{name} is queued in {kept}; the last one was {last[stream]}"
            world.findings.add(MESSAGE, text, order=kept.order)
            last[stream] = entry.number
        elif world.queued[(*stream, entry.number)].entry.message != entry.message:
            first = world.queued[(*stream, entry.number)].kept
            text = f"{name} is queued in {kept}, but in {first} that number was another's"
            world.findings.add(MESSAGE, text, order=kept.order)
    return last


def _check_letters(world: World) -> None:
    """Check that what lies in the inboxes was durable in the sender's journal before."""
    for posted in world.letters:
        letter = posted.letter
        if letter.source == FROM_NODE:
            continue
        fact = world.queued.get((letter.source, posted.inbox, letter.number))
        if fact is None:
            text = f"{posted} (offset {posted.offset}) was never queued"
        elif fact.kept.order >= posted.order:
            text = f"{posted} (offset {posted.offset}) was sent before {fact.kept} was durable"
        elif fact.entry.message != letter.message and not isinstance(
            posted.message, MessageUndeliverable
        ):
            text = f"{posted} (offset {posted.offset}) is not the message queued in {fact.kept}"
        else:
            continue
        world.findings.add(MESSAGE, text, order=posted.order)


def _check_sent(world: World) -> None:
    """Check that messages noted as sent lay in the inbox."""
    arrived: dict[tuple[int, int, int], int] = {}
    for posted in world.letters:
        where = (posted.letter.source, posted.inbox, posted.letter.number)
        arrived.setdefault(where, posted.order)
    through: dict[_Stream, int] = defaultdict(int)
    for fact in world.of(MessagesSent):
        kept, entry = fact.kept, fact.entry
        stream = (kept.partition, entry.destination)
        for number in range(through[stream] + 1, entry.through + 1):
            at = arrived.get((*stream, number))
            if at is None or at >= kept.order:
                text = (
                    f"message {number} of partition {stream[0]} for {stream[1]} is noted as sent"
                    f" in {kept}, but is not in the inbox by then"
                )
                world.findings.add(MESSAGE, text, order=kept.order)
        through[stream] = max(through[stream], entry.through)


def _check_taken(world: World) -> dict[_Stream, int]:
    last: dict[_Stream, int] = defaultdict(int)
    for fact in world.of(MessageTaken):
        kept, entry = fact.kept, fact.entry
        stream = (entry.source, kept.partition)
        name = f"message {entry.number} of partition {entry.source} is taken in {kept}"
        if entry.number != last[stream] + 1:
            text = f"{name}; the last one taken was {last[stream]}"
            world.findings.add(MESSAGE, text, order=kept.order)
        queued = world.queued.get((*stream, entry.number))
        if queued is None:
            world.findings.add(MESSAGE, f"{name}, but was never queued", order=kept.order)
        elif queued.kept.order >= kept.order and queued.kept is not kept:
            text = f"{name}, before it was durable ({queued.kept})"
            world.findings.add(MESSAGE, text, order=kept.order)
        last[stream] = max(last[stream], entry.number)
    return last
