"""Signals: a name has one waiter, kept by the name's home, and what is sent reaches it once."""

from collections import defaultdict

from stepfold_schemas.entries import (
    MessageQueued,
    SignalFreed,
    SignalHeld,
    SignalReceived,
    SignalWaitBegan,
    SignalWaitEnded,
)
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.messages import SignalDelivered, SignalWaitClosed
from tests.simulation.audit.findings import SIGNAL
from tests.simulation.audit.journal import Kept
from tests.simulation.audit.stories import Fact
from tests.simulation.audit.world import World, message_of

_Waiter = tuple[bytes, bytes]
"""A run, and its step."""


def check(world: World) -> None:
    """Check every signal's way from its home to its waiter."""
    _check_signals(world, _check_homes(world))


def _check_homes(world: World) -> list[Fact[SignalDelivered]]:
    """Check that a name has one waiter, and return what was delivered to waiters."""
    findings, deliveries = world.findings, list[Fact[SignalDelivered]]()
    for journal in world.journals:
        holders: dict[str, SignalHeld] = {}
        for kept in journal.kept:
            told = _told_in(world, kept)
            freed: list[_Waiter] = []
            for entry in kept.decision.entries:
                if isinstance(entry, SignalHeld):
                    old = holders.get(entry.signal)
                    holders[entry.signal] = entry
                    if old is None:
                        _check_waiter(world, kept, entry)
                    elif (old.run, old.step) != (entry.run, entry.step) and not any(
                        isinstance(m, SignalWaitClosed) and m.run == old.run for m in told
                    ):
                        text = f"signal {entry.signal!r} has a second waiter, run"
                        text += f" {ulid_text(entry.run)}, in {kept}; run {ulid_text(old.run)}"
                        findings.add(SIGNAL, f"{text} waits for it", entry.run, kept.order)
                elif isinstance(entry, SignalFreed):
                    holder = holders.pop(entry.signal, None)
                    if holder is not None:
                        freed.append((holder.run, holder.step))
            for message in told:
                if isinstance(message, SignalDelivered):
                    deliveries.append(Fact(kept, message))
                    if (message.run, message.step) not in freed:
                        text = f"a signal is delivered in {kept} to run {ulid_text(message.run)},"
                        text += " which was not its waiter"
                        findings.add(SIGNAL, text, message.run, kept.order)
    return deliveries


def _told_in(world: World, kept: Kept) -> list[SignalDelivered | SignalWaitClosed]:
    """Return what a record tells waiters, unless it only says it again."""
    found: list[SignalDelivered | SignalWaitClosed] = []
    for entry in kept.decision.entries:
        if isinstance(entry, MessageQueued):
            first = world.queued[kept.partition, entry.destination, entry.number]
            message = message_of(entry.message) if first.kept is kept else None
            if isinstance(message, SignalDelivered | SignalWaitClosed):
                found.append(message)
    return found


def _check_waiter(world: World, kept: Kept, entry: SignalHeld) -> None:
    story = world.stories.get(entry.run)
    began = story.began.get(entry.step) if story is not None else None
    fits = (
        began is not None
        and isinstance(began.entry, SignalWaitBegan)
        and began.entry.signal == entry.signal
        and began.kept.order <= kept.order
    )
    if not fits:
        text = f"signal {entry.signal!r} is held in {kept} for run {ulid_text(entry.run)}, which"
        world.findings.add(SIGNAL, f"{text} does not wait for it", entry.run, kept.order)


def _check_signals(world: World, deliveries: list[Fact[SignalDelivered]]) -> None:
    """Check that what was delivered was received, and the other way round."""
    by_waiter: dict[_Waiter, list[Fact[SignalDelivered]]] = defaultdict(list)
    for delivery in deliveries:
        by_waiter[delivery.entry.run, delivery.entry.step].append(delivery)
    for fact in world.of(SignalReceived):
        e, kept = fact.entry, fact.kept
        sent = by_waiter.get((e.run, e.step), [])
        if not any(d.entry.data == e.data and d.kept.order <= kept.order for d in sent):
            text = f"run {ulid_text(e.run)} receives a signal in {kept} that was not delivered"
            world.findings.add(SIGNAL, text, e.run, kept.order)
    for (run, step), sent in by_waiter.items():
        story = world.stories.get(run)
        outcome = story.outcomes.get(step) if story is not None else None
        kept = sent[0].kept
        if len(sent) > 1:
            text = f"step {step.hex()} of run {ulid_text(run)} is given two signals, in"
            text += f" {kept} and {sent[1].kept}"
            world.findings.add(SIGNAL, text, run, sent[1].kept.order)
        lost = outcome is not None and isinstance(outcome.entry, SignalWaitEnded)
        if story is not None and outcome is None:
            lost = world.setup.settled and story.end is None
        if lost and story is not None:
            text = f"a signal was delivered in {kept} to step {story.name(step)} of {story}, which"
            world.findings.add(SIGNAL, f"{text} did not get it", run, kept.order)
