"""Answers: what callers outside were told is so, and a request has one answer."""

from collections import Counter, defaultdict

from stepfold_schemas.entries import RequestAnswered, RunCancelled, SignalWaitBegan
from stepfold_schemas.ids import parse_ulid, ulid_text
from stepfold_schemas.messages import SignalDelivered
from tests.simulation.audit.findings import ANSWER
from tests.simulation.audit.stories import Fact
from tests.simulation.audit.world import World, message_of
from tests.simulation.ledger import Told


def check(world: World) -> None:
    """Check all that callers were told."""
    _check_answers(world)
    _check_told(world)


def _check_answers(world: World) -> None:
    """Check that a request has one answer."""
    answers: dict[bytes, Fact[RequestAnswered]] = {}
    for fact in world.of(RequestAnswered):
        first = answers.setdefault(fact.entry.request, fact)
        if first.entry != fact.entry:
            text = f"request {fact.entry.request.hex()} is answered {first.entry.status} in"
            text += f" {first.kept} and {fact.entry.status} in {fact.kept}"
            world.findings.add(ANSWER, text, order=fact.kept.order)


def _check_told(world: World) -> None:
    published = {e.event.internal: e for events in world.events.values() for e in events}
    delivered = _deliveries(world)
    signalled = Counter[tuple[str, bytes]]()
    for told in world.told:
        match told.what:
            case "published":
                event = published.get(told.name)
                if event is None or event.order >= told.order:
                    text = f"the event {told.name} was told to be published at {told.at_ms}, but"
                    world.findings.add(ANSWER, f"{text} is not in the log", order=told.order)
            case "cancelled":
                _check_cancelled(world, told)
            case "reran":
                _check_reran(world, told)
            case "signalled" if told.value:
                run = parse_ulid(told.value)
                signalled[told.name, run] += 1
                before = [o for o in delivered.get((told.name, run), ()) if o < told.order]
                if len(before) < signalled[told.name, run]:
                    text = f"signal {told.name!r} was told to have reached run {told.value},"
                    text += f" the {signalled[told.name, run]}. time; {len(before)} were delivered"
                    world.findings.add(ANSWER, text, run, told.order)
            case _:
                pass


def _check_reran(world: World, told: Told) -> None:
    run = parse_ulid(told.name)
    story = world.stories.get(run)
    rerun = story.rerun if story is not None else None
    if rerun is None or ulid_text(rerun.entry.origin) != told.value:
        text = f"{told.name} was told to be a rerun of {told.value}; no journal says so"
    elif rerun.kept.order >= told.order:
        text = f"{told.name} was told to be started before {rerun.kept} was durable"
    else:
        return
    world.findings.add(ANSWER, text, run, told.order)


def _deliveries(world: World) -> dict[tuple[str, bytes], list[int]]:
    """Return where in the ledger a signal was sent to a run, by the signal's name and the run."""
    found: dict[tuple[str, bytes], list[int]] = defaultdict(list)
    for fact in world.queued.values():
        message = message_of(fact.entry.message)
        if isinstance(message, SignalDelivered):
            found[_signal_of(world, message), message.run].append(fact.kept.order)
    return found


def _signal_of(world: World, delivered: SignalDelivered) -> str:
    story = world.stories.get(delivered.run)
    began = story.began.get(delivered.step) if story is not None else None
    if began is None or not isinstance(began.entry, SignalWaitBegan):
        return ""
    return began.entry.signal


def _check_cancelled(world: World, told: Told) -> None:
    try:
        run = parse_ulid(told.name)
    except ValueError:
        run = parse_ulid(told.value)
    story = world.stories.get(run)
    end = story.end if story is not None else None
    if end is None or not isinstance(end.entry, RunCancelled) or end.kept.order >= told.order:
        text = f"run {ulid_text(run)} was told to be cancelled, but no durable record says so"
        world.findings.add(ANSWER, text, run, told.order)
