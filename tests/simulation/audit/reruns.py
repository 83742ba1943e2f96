"""Reruns: each was asked for, once, and shares the beginning of what its origin recorded."""

from collections import defaultdict
from dataclasses import replace
from typing import cast

from stepfold_schemas import codec
from stepfold_schemas.entries import Entry, EventMatched, RunAttemptFailed, RunEntry
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.messages import FROM_NODE, RerunRequested
from tests.simulation.audit.findings import RERUN
from tests.simulation.audit.stories import Story
from tests.simulation.audit.world import World

_Happened = tuple[int, Entry]
"""When an entry was recorded first, and the entry without the run that it names."""


def check(world: World) -> None:
    """Check all reruns."""
    requests = _requests(world)
    by_request: dict[bytes, list[Story]] = defaultdict(list)
    for story in world.stories.values():
        if story.rerun is None:
            continue
        why = _why_not_shared(world, story)
        asked = [r for r in requests if _is_meant(story, *r)]
        if not asked:
            why = "nobody asked for it before"
        elif len(asked) == 1:
            by_request[asked[0][0]].append(story)
        if why:
            kept = story.start.kept
            text = f"{story} is a rerun of {ulid_text(story.rerun.entry.origin)} in {kept}: {why}"
            world.findings.add(RERUN, text, story.run, kept.order)
    for request, stories in by_request.items():
        if len(stories) > 1:
            text = f"the request {request.hex()} starts {stories[0]} and {stories[1]}"
            world.findings.add(RERUN, text, stories[1].run, stories[1].start.kept.order)


def _requests(world: World) -> list[tuple[bytes, int, RerunRequested]]:
    """Return the requests for reruns, each once, and where in the ledger it was durable first."""
    found: dict[bytes, tuple[bytes, int, RerunRequested]] = {}
    for posted in world.letters:
        message = posted.message
        if posted.letter.source == FROM_NODE and isinstance(message, RerunRequested):
            request = posted.letter.request
            found.setdefault(request, (request, posted.order, message))
    return list(found.values())


def _is_meant(story: Story, _request: bytes, order: int, asked: RerunRequested) -> bool:
    rerun = story.rerun
    assert rerun is not None, "asked for reruns only"
    entry, start = rerun.entry, story.start
    # To the rerun its event comes now.
    at_ms = start.kept.decision.at_ms
    events = [replace(codec.decode_event(e), received_ms=at_ms) for e in asked.events]
    return (
        order < rerun.kept.order
        and (entry.origin, entry.from_step) == (asked.run, asked.from_step)
        and (entry.seed, entry.times_ms) == (asked.seed, [item.at_ms for item in asked.items])
        and start.entry.function == asked.function
        and start.entry.events == [codec.encode(event) for event in events]
    )


def _why_not_shared(world: World, story: Story) -> str:
    """Compare what a rerun shares with what its origin recorded."""
    assert story.rerun is not None, "asked for reruns only"
    rerun = story.rerun.entry
    origin = world.stories.get(rerun.origin)
    if origin is None or origin.start.kept.order >= story.start.kept.order:
        return "there was no such run"
    shared = _happened(story, own=False)
    if len(shared) not in (0, len(rerun.times_ms)):
        return f"it shares {len(shared)} entries, of {len(rerun.times_ms)} times"
    again = {story.names.get(step) for step in story.shared}
    if rerun.from_step in again and not any(isinstance(e, RunAttemptFailed) for _, e in shared):
        return f"it begins at {rerun.from_step!r}, and shares the outcome of that"
    outcomes = [pair for pair in shared if _is_outcome(origin, pair[1])]
    recorded = [pair for pair in _happened(origin, own=True) if _is_outcome(origin, pair[1])]
    if outcomes != recorded[: len(outcomes)]:
        had = [type(entry).__name__ for _, entry in recorded]
        has = [type(entry).__name__ for _, entry in outcomes]
        return f"it shares the outcomes {has}; its origin had {had}"
    return ""


def _happened(story: Story, *, own: bool) -> list[_Happened]:
    """Return what happened to a run, or only what it shares with another one."""
    rerun = story.rerun
    return [
        (at_ms, _nameless(story, entry))
        for kept, pairs in story.dated()
        if own or kept is story.start.kept
        for at_ms, entry in pairs
        if entry is not story.start.entry and (rerun is None or entry is not rerun.entry)
    ]


def _is_outcome(story: Story, entry: Entry) -> bool:
    if isinstance(entry, EventMatched):
        return True
    outcome = story.outcomes.get(getattr(entry, "step", b""))
    return outcome is not None and type(outcome.entry) is type(entry)


def _nameless(story: Story, entry: Entry) -> Entry:
    """Return an entry as it is in every run that shares it."""
    if isinstance(entry, EventMatched):
        waits = [replace(ref, run=b"") for ref in entry.waits if ref.run == story.run]
        return replace(entry, waits=waits)
    return replace(cast("RunEntry", entry), run=b"")
