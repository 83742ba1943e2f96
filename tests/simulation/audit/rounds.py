"""Rounds of restating: where recovery may begin, and what is copied of runs' histories."""

from collections.abc import Iterator
from itertools import groupby

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    HistoryRestated,
    PartitionRestated,
    RoundFinished,
    RunRestated,
)
from tests.simulation.audit.findings import ROUND
from tests.simulation.audit.journal import Journal, Kept
from tests.simulation.audit.stories import Fact, Story
from tests.simulation.audit.world import World


def check(world: World) -> None:
    """Check every ``fold_from``, and every head and copy."""
    for journal in world.journals:
        _check_starts(world, journal)
    _check_histories(world)


def _check_starts(world: World, journal: Journal) -> None:
    """A record's ``fold_from`` is the start of a round that was whole before the record."""
    whole = dict(finished_rounds(journal))
    for kept in journal.kept:
        _check_start(world, whole, kept.decision, str(kept), kept.order)
    for void in journal.void:
        # Recovery looks at the last record, which may be void: what it says must be true, too.
        name = f"void record journal/{journal.number} offset {void.written.offset}"
        _check_start(world, whole, void.decision, name, void.written.order)


def _check_start(
    world: World, whole: dict[int, Kept], decision: Decision, name: str, order: int
) -> None:
    if not decision.fold_from:
        return
    finished = whole.get(decision.fold_from)
    if finished is None:
        text = f"{name} says fold_from {decision.fold_from}, where no whole round begins"
        world.findings.add(ROUND, text, order=order)
    elif finished.order >= order:
        text = f"{name} says fold_from {decision.fold_from}, the start of a round that ends only"
        world.findings.add(ROUND, f"{text} in {finished}", order=order)


def finished_rounds(journal: Journal) -> Iterator[tuple[int, Kept]]:
    """Yield each round that was finished: the offset at which it starts, and its last record."""
    start: tuple[int, int] | None = None
    for kept in journal.kept:
        for entry in kept.decision.entries:
            if isinstance(entry, PartitionRestated):
                start = (entry.round, kept.offset)
            elif isinstance(entry, RoundFinished) and start is not None and entry.round == start[0]:
                yield start[1], kept


_Group = tuple[int, list[tuple[int, Entry]]]
"""A decision that concerns a run: its seq, and the run's entries with their times."""


def _check_histories(world: World) -> None:
    restated: dict[bytes, list[Fact[RunRestated] | Fact[HistoryRestated]]] = {}
    for head in world.of(RunRestated):
        restated.setdefault(head.entry.run, []).append(head)
    for copy in world.of(HistoryRestated):
        restated.setdefault(copy.entry.run, []).append(copy)
    for run, facts in restated.items():
        story = world.stories.get(run)
        if story is not None:
            facts.sort(key=lambda fact: fact.kept.index)
            _check_history(world, story, facts)


def _check_history(
    world: World, story: Story, facts: list[Fact[RunRestated] | Fact[HistoryRestated]]
) -> None:
    """Follow a run's history through the copies that were made of its parts."""
    groups: list[_Group] = []
    coming = iter(story.dated())
    following = next(coming, None)
    for fact in facts:
        while following is not None and following[0].index < fact.kept.index:
            groups.append((following[0].decision.seq, following[1]))
            following = next(coming, None)
        entry, kept = fact.entry, fact.kept
        if isinstance(entry, RunRestated):
            seqs = [seq for seq, _ in groups]
            if entry.seqs != seqs:
                text = f"the head of {story} in {kept} says that its outcomes lie at {entry.seqs};"
                world.findings.add(ROUND, f"{text} they lie at {seqs}", story.run, kept.order)
            continue
        part = slice(entry.skips, entry.skips + entry.replaces)
        was = [pair for _, pairs in groups[part] for pair in pairs]
        items = [(item.at_ms, codec.decode_entry(item.entry)) for item in entry.items]
        # An event that wakes two waits of the run is copied twice, and means the same.
        copied = [item for item, _ in groupby(items)]
        if copied != was:
            text = f"the copy in {kept} of decisions {part.start} to {part.stop} of {story} holds"
            text += f" {[type(e).__name__ for _, e in copied]}; they hold"
            text += f" {[type(e).__name__ for _, e in was]}"
            world.findings.add(ROUND, text, story.run, kept.order)
        groups[part] = [(kept.decision.seq, copied)]
