"""Crons: each time of a cron starts one run, and of times that were missed the last one does.

When they come due is worked out here again, for the expressions that random programs have.
"""

from datetime import UTC, datetime
from functools import lru_cache

from stepfold_schemas import codec
from stepfold_schemas.entries import CronEnded, CronFired, CronScheduled, Entry
from tests.simulation.audit.findings import CRON, LIVENESS
from tests.simulation.audit.journal import Journal, Kept
from tests.simulation.audit.starts import Force
from tests.simulation.audit.world import World, values_of

LATE_MS_MAX = 60_000
MINUTE_MS = 60_000
YEARS = (2027, 2028)

_OFFSETS = {"": 0, "TZ=Europe/Berlin": 1}
"""Hours ahead of UTC, in winter."""

_Name = tuple[str, str]


@lru_cache
def times_of(cron: str) -> list[int]:
    """Return when an expression comes due, in these years; minutes of one hour of one day."""
    *zone, minutes, hour, day, month, any_day = cron.split()
    assert any_day == "*", "programs have no others"
    first, _, last = minutes.partition("-")
    listed = list(range(int(first), int(last) + 1) if last else map(int, minutes.split(",")))
    utc_hour = int(hour) - _OFFSETS["".join(zone)]
    found = [
        datetime(year, int(month), int(day), utc_hour, minute, tzinfo=UTC)
        for year in YEARS
        for minute in listed
    ]
    return sorted(int(at.timestamp() * 1000) for at in found)


def after(cron: str, at_ms: int) -> int:
    """Return the first time after this one."""
    return next(t for t in times_of(cron) if t > at_ms)


def check(world: World) -> None:
    """Check every schedule, from its beginning on, and what it starts."""
    fired: set[tuple[str, str, int]] = set()
    last_ms = max((j.kept[-1].decision.at_ms for j in world.journals if j.kept), default=0)
    for journal in world.journals:
        due = _walk(world, journal, fired)
        late_ms = last_ms - 2 * world.setup.clock_skew_ms - LATE_MS_MAX
        for (function, cron), due_ms in due.items():
            if world.setup.settled and due_ms < late_ms:
                text = f"cron {cron!r} of {function} was due at {due_ms} and never fired"
                world.findings.add(LIVENESS, text)


def _walk(world: World, journal: Journal, fired: set[tuple[str, str, int]]) -> dict[_Name, int]:
    due: dict[_Name, int] = {}
    force = Force()
    for kept in journal.kept:
        force.walk(kept)
        for entry in kept.decision.entries:
            if not isinstance(entry, CronScheduled | CronFired | CronEnded):
                continue
            name = (entry.function, entry.cron)
            why = _why_not(world, kept, entry, due.get(name), fired)
            if why:
                text = f"{type(entry).__name__} of cron {entry.cron!r} of {entry.function} in"
                world.findings.add(CRON, f"{text} {kept}: {why}", order=kept.order)
            match entry:
                case CronScheduled():
                    due[name] = entry.due_ms
                case CronFired():
                    due[name] = entry.next_ms
                case CronEnded():
                    due.pop(name, None)
    wanted = {
        (spec.id, cron)
        for spec in force.functions.values()
        for cron in spec.crons
        if world.home(f"{spec.id}\0{cron}") == journal.number
    }
    if wanted != set(due):
        text = f"partition {journal.number} is the home of the crons {sorted(wanted)}, which are in"
        world.findings.add(CRON, f"{text} force; it has scheduled {sorted(due)}")
    return due


def _why_not(
    world: World,
    kept: Kept,
    entry: Entry,
    due_ms: int | None,
    fired: set[tuple[str, str, int]],
) -> str:
    match entry:
        case CronScheduled():
            if world.home(f"{entry.function}\0{entry.cron}") != kept.partition:
                return "its home is another partition"
            wanted = after(entry.cron, kept.decision.at_ms) if due_ms is None else due_ms
            return "" if entry.due_ms == wanted else f"it is due at {wanted}, not {entry.due_ms}"
        case CronFired():
            return _why_not_fired(world, kept, entry, due_ms, fired)
        case _:
            return "" if due_ms is not None else "it was not scheduled"


def _why_not_fired(
    world: World,
    kept: Kept,
    entry: CronFired,
    due_ms: int | None,
    fired: set[tuple[str, str, int]],
) -> str:
    at_ms = kept.decision.at_ms
    if entry.due_ms != due_ms:
        return f"it was due at {due_ms}, not {entry.due_ms}"
    if at_ms < entry.due_ms:
        return f"it comes {entry.due_ms - at_ms} ms early"
    last = max(t for t in times_of(entry.cron) if t <= at_ms)
    if entry.fired_ms != last:
        return f"its last time up to {at_ms} is {last}, not {entry.fired_ms}"
    if entry.next_ms != after(entry.cron, last):
        return f"its next time is not {entry.next_ms}"
    once = (entry.function, entry.cron, last)
    if once in fired:
        # A clock was put back while the function was declared anew.
        return "" if not entry.run else f"the time {last} starts a second run"
    fired.add(once)
    story = world.stories.get(entry.run)
    if story is None or story.start.kept is not kept or story.function != entry.function:
        return "it starts no run"
    event = codec.decode_event(story.start.entry.events[0])
    said = datetime.fromisoformat(str(values_of(event)["data"]["scheduled_at"]))
    return "" if int(said.timestamp() * 1000) == last else f"its event says {said}"
