"""Nothing is left undone when faults have stopped and time was given; no run is ever stopped."""

from stepfold_schemas.entries import RunStopped, SignalFreed, SignalHeld
from stepfold_schemas.ids import ulid_text
from tests.simulation.audit.findings import LIVENESS
from tests.simulation.audit.world import EVENTS, INBOX, World


def check(world: World) -> None:
    """Check that no run was stopped, and that all that was begun has come to its end."""
    for fact in world.of(RunStopped):
        story, report = world.stories.get(fact.entry.run), fact.entry.report
        text = f"{story} is stopped in {fact.kept}: {report.decode(errors='replace')}"
        world.findings.add(LIVENESS, text, fact.entry.run, fact.kept.order)
    if world.setup.settled:
        _check_runs(world)
        _check_inputs(world)
        _check_signals(world)


def _check_runs(world: World) -> None:
    for story in world.stories.values():
        if story.end is None and story.stopped is None:
            waits = [story.name(step) for step in story.began if step not in story.outcomes]
            text = f"{story}, started in {story.start.kept}, has not ended; it waits for {waits}"
            world.findings.add(LIVENESS, text, story.run, story.start.kept.order)


def _check_inputs(world: World) -> None:
    for (topic, partition), where in world.topics.items():
        for journal in world.journals:
            if topic != EVENTS and (topic != INBOX or journal.number != partition):
                continue
            last = journal.kept[-1] if journal.kept else None
            read = last.position(topic, partition) if last is not None else 0
            if read < where.end:
                text = f"partition {journal.number} is known to have read {topic}/{partition} up to"
                world.findings.add(LIVENESS, f"{text} {read}; it ends at {where.end}")


def _check_signals(world: World) -> None:
    for journal in world.journals:
        holders: dict[str, SignalHeld] = {}
        for kept in journal.kept:
            for entry in kept.decision.entries:
                if isinstance(entry, SignalHeld):
                    holders[entry.signal] = entry
                elif isinstance(entry, SignalFreed):
                    holders.pop(entry.signal, None)
        for signal, holder in holders.items():
            story = world.stories.get(holder.run)
            if story is None or story.end is not None:
                text = f"partition {journal.number} still holds signal {signal!r} for run"
                text += f" {ulid_text(holder.run)}, which has ended"
                world.findings.add(LIVENESS, text, holder.run)
