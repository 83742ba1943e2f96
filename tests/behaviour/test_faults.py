"""Appends that fail in every way, zombies, full disks, damage, unreadable input."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import stepfold
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, JOURNAL, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.readers import REASON_CHARS_MAX, event_record
from stepfold_schemas.entries import InputRejected, PartitionClaimed, StepCompleted
from stepfold_schemas.events import Event
from tests.behaviour.conftest import On
from tests.behaviour.faults import FaultyLog
from tests.behaviour.scenario import Scenario, Variant, scenario
from tests.behaviour.test_crashes import no_outcome_twice, orders

SMALL = [(1, False), (1, True), (4, False)]


def faulty(s: Scenario) -> FaultyLog:
    """Put a failing log between the engine and its log, from the next start on."""
    log = FaultyLog(s.log)
    s.crash()
    s.log = log
    s.start()
    return log


@pytest.mark.parametrize(("partitions", "replay"), SMALL)
@pytest.mark.parametrize("seed", range(12))
def test_s3_s4_appends_that_fail_in_any_way_lose_and_double_nothing(
    partitions: int, replay: bool, seed: int, tmp_path: Path, on: On
) -> None:
    """S3, S4: failed, lost, late and cut appends, each followed by a claim."""
    chance = random.Random(seed)
    ran: Counter[str] = Counter()
    app = orders(ran)
    with scenario(on(partitions, replay), app, tmp_path) as s:
        log = faulty(s)
        kinds = ["full", "lost", "landed", "late", "cut", "ok", "ok", "ok", "ok", "ok"]
        log.faults.extend(chance.choice(kinds) for _ in range(120))
        for n in range(6):
            s.send("t/order", {"n": n}, id=f"order-{n}")
            s.advance(chance.uniform(0, 300))
            s.send("t/paid", {"n": n})
        s.until(lambda: len([r for r in s.of("order") if r.end]) == 6)
        s.until(lambda: len([r for r in s.of("told") if r.end]) == 6)
        results = sorted(r.result[:3] for r in s.of("order"))
        assert results == [[f"charge-{n}", n * 2, n] for n in range(6)]
        assert set(ran.values()) == {1}
        no_outcome_twice(s)
        assert {"lost", "landed", "late"} & set(log.met)


@pytest.mark.parametrize("seed", range(6))
def test_s8_s37_messages_between_partitions_are_each_taken_once_and_in_order(
    seed: int, tmp_path: Path, on: On
) -> None:
    """S8, S37: appends to inboxes fail for a moment, land anyway, or are cut."""
    chance = random.Random(seed)
    ran: Counter[str] = Counter()
    app = orders(ran)
    with scenario(on(4), app, tmp_path) as s:
        log = faulty(s)
        kinds = ["lost", "landed", "cut", "ok", "ok", "ok"]
        log.inbox_faults.extend(chance.choice(kinds) for _ in range(60))
        for n in range(10):
            s.send("t/order", {"n": n}, id=f"order-{n}")
        s.until(lambda: len([r for r in s.of("order") if r.end]) == 10)
        assert sorted(r.result[1] for r in s.of("order")) == [n * 2 for n in range(10)]
        assert len(s.of("child")) == 10
        assert set(ran.values()) == {1}
        s.advance(60)
        for state in s.node.states():
            assert not any(state.unsent.values())


def test_s12_a_function_is_in_force_everywhere_when_its_declaration_is_answered(
    tmp_path: Path,
    stored: On,
) -> None:
    """S12: right after the answer, events go to every partition."""
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        return int(ctx.event.data["n"])

    with scenario(stored(4), app, tmp_path) as s:
        for n in range(40):
            s.send("t/go", {"n": n})
        s.until(lambda: len([r for r in s.of("f") if r.end]) == 40)
        assert {r.id[6] << 4 | r.id[7] >> 4 for r in s.of("f")} == {0, 1, 2, 3}


def test_s23_a_cancellation_that_was_read_before_its_run_began_counts(
    tmp_path: Path, on: On
) -> None:
    """S23: "created" lies in a partition that is read later than the one with "deleted"."""
    app = stepfold.App("t")

    @app.function("f", on="t/created", cancel_on=stepfold.CancelOn("t/deleted", match="data.user"))
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("wait", "1h")

    with scenario(on(4), app, tmp_path) as s:
        for user in range(12):
            s.send("t/created", {"user": user})
            s.send("t/deleted", {"user": user})
        s.until(lambda: len([r for r in s.of("f") if r.end]) == 12)
        assert {r.status for r in s.of("f")} == {"cancelled"}


def test_an_event_right_behind_the_one_that_begins_a_wait_for_it_counts(tmp_path: Path) -> None:
    """Both are read at once, and the second one concerned nobody when it was read.

    Only in memory: the events have a single partition there, which is taken from the log.
    """
    app = stepfold.App("t")

    @app.function("f", on="t/created", cancel_on=stepfold.CancelOn("t/deleted", match="data.user"))
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("wait", "1h")

    with scenario(Variant("memory", False, 4), app, tmp_path) as s:
        s.crash()
        assert isinstance(s.log, MemoryLog)
        del s.log.topics[EVENTS][1:]
        for user in range(8):
            created = Event("t/created", b'{"user": %d}' % user, internal=f"created-{user}")
            deleted = Event("t/deleted", b'{"user": %d}' % user, internal=f"deleted-{user}")
            s.do(s.log.append("events", 0, [event_record(created), event_record(deleted)]))
        s.start()
        s.until(lambda: len([r for r in s.of("f") if r.end]) == 8)
        assert {r.status for r in s.of("f")} == {"cancelled"}


@pytest.mark.parametrize(("partitions", "replay"), SMALL)
@pytest.mark.parametrize("after_s", [0.5, 30, 400, 700])
def test_a_zombie_changes_nothing_that_anybody_folds(
    partitions: int, replay: bool, after_s: float, tmp_path: Path, on: On
) -> None:
    """S2, S5, S21: a second process takes over while the first goes on and does not know."""
    ran: Counter[str] = Counter()
    app = orders(ran)
    with scenario(on(partitions, replay), app, tmp_path) as s:
        for n in range(4):
            s.send("t/order", {"n": n}, id=f"order-{n}")
        s.advance(after_s)
        first = s.node
        s.takeover()
        for n in range(4):
            s.send("t/paid", {"n": n})
        s.until(lambda: len([r for r in s.of("order") if r.end]) == 4)
        s.advance(7200)
        assert sorted(r.result[0] for r in s.of("order")) == [f"charge-{n}" for n in range(4)]
        no_outcome_twice(s)
        assert not first.owners, "the fenced process owns nothing and stays quiet"
        for partition in range(partitions):
            claims = [
                e
                for d in s.journal(partition)
                for e in d.entries
                if isinstance(e, PartitionClaimed)
            ]
            assert len({c.epoch for c in claims}) == 2


def test_s10_a_full_disk_keeps_finished_outcomes_and_goes_on(tmp_path: Path, on: On) -> None:
    """S10: the disk is full while charge() runs; its outcome is recorded when space is back."""
    app = stepfold.App("t")
    ran: list[str] = []

    async def charge() -> str:
        await asyncio.sleep(10)
        ran.append("charge")
        return "charged"

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        return await ctx.step.run("charge", charge)

    with scenario(on(1), app, tmp_path) as s:
        log = faulty(s)
        run = s.start_run("t/go")
        s.advance(5)
        log.disk_full = True
        s.advance(60)
        assert ran == ["charge"]
        assert run.end is None
        with pytest.raises(Exception, match="no space left"):
            s.send("t/go")
        log.disk_full = False
        assert s.ended(run).result == "charged"
        assert ran == ["charge"]


def test_an_input_that_cannot_be_read_goes_to_the_dead_letters_byte_for_byte(
    tmp_path: Path,
    stored: On,
) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        return int(ctx.event.data["n"])

    with scenario(stored(1), app, tmp_path) as s:
        s.do(s.log.append(EVENTS, 0, [NewRecord(b"\x01not an event", b"key", (("h", b"1"),))]))
        assert s.run("t/go", {"n": 5}).result == 5
        batch = s.do(s.log.read(DEAD_LETTERS, 0, 0))
        (letter,) = batch.records
        assert (letter.value, letter.key) == (b"\x01not an event", b"key")
        headers = dict(letter.headers)
        assert headers["h"] == b"1"
        assert headers["stepfold.source"] == b"events-0-0"
        assert b"nor JSON" in headers["stepfold.error"]
        rejected = [e for _, d in s.decisions for e in d.entries if isinstance(e, InputRejected)]
        assert [(r.topic, r.offset) for r in rejected] == [("events", 0)]


@pytest.mark.parametrize("name", ["\ud800", "x" * 1_000_000], ids=["half-a-pair", "long"])
def test_an_input_is_kept_whose_reason_quotes_what_cannot_be_written(
    name: str, tmp_path: Path, stored: On
) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        return int(ctx.event.data["n"])

    event = {"specversion": "1.0", "type": "t/go", "source": "s", "id": "1", name: []}
    value = json.dumps(event).encode()
    with scenario(stored(1), app, tmp_path) as s:
        s.do(s.log.append(EVENTS, 0, [NewRecord(value)]))
        assert s.run("t/go", {"n": 5}).result == 5
        (letter,) = s.do(s.log.read(DEAD_LETTERS, 0, 0)).records
        assert letter.value == value
        reason = dict(letter.headers)["stepfold.error"].decode()
        assert reason.startswith("CloudEvent: attribute ")
        assert len(reason) <= REASON_CHARS_MAX + 1


def test_a_damaged_journal_stops_its_partition_and_the_others_go_on(tmp_path: Path, on: On) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        return await ctx.step.run("a", lambda: "done")

    with scenario(on(4), app, tmp_path) as s:
        for n in range(12):
            s.send("t/go", {"n": n})
        s.until(lambda: len([r for r in s.of("f") if r.end]) == 12)
        s.crash()
        s.do(s.log.append(JOURNAL, 2, [NewRecord(b"damage")]))
        s.complete = False
        s.start()
        assert list(s.node.stopped_partitions) == [2]
        assert "offset" in s.node.stopped_partitions[2]
        assert sorted(s.node.owners) == [0, 1, 3]
        before = len([r for r in s.of("f") if r.end])
        for n in range(40):
            s.send("t/go", {"n": 100 + n})
        s.advance(60)
        assert len([r for r in s.of("f") if r.end]) > before + 10


def test_s32_one_event_that_wakes_very_many_waits_is_decided_in_parts(
    tmp_path: Path, on: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S32: one event wakes many waits of one partition; the owner dies in between."""
    monkeypatch.setattr("stepfold_engine.core.decide.events.REFS_A_DECISION_MAX", 7)
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        event = await ctx.step.wait_for_event("all", event="t/all", timeout="1d")
        return None if event is None else event.data["n"]

    with scenario(on(1), app, tmp_path) as s:
        for n in range(50):
            s.send("t/go", {"n": n})
        s.advance(60)
        log = faulty(s)
        s.advance(5)
        log.faults.extend(["cut", "ok", "cut"])
        s.send("t/all", {"n": 1})
        s.advance(5)
        s.restart()
        s.until(lambda: len([r for r in s.of("f") if r.end]) == 50)
        assert [r.result for r in s.of("f")] == [1] * 50
        matched = [
            ref.run
            for _, d in s.decisions
            for e in d.entries
            if type(e).__name__ == "EventMatched"
            for ref in getattr(e, "waits", [])
        ]
        assert len(matched) == len(set(matched)) == 50
        most = max(
            (len(getattr(e, "waits", [])) for _, d in s.decisions for e in d.entries), default=0
        )
        assert most <= 7


def test_s35_events_that_pour_in_do_not_put_a_timeout_off(tmp_path: Path, on: On) -> None:
    """S35: it is decided within seconds."""
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        return await ctx.step.wait_for_event("e", event="t/e", match="data.k", timeout="60s")

    with scenario(on(1), app, tmp_path) as s:
        run = s.start_run("t/go", {"k": "mine"})
        for n in range(1200):
            s.send("t/e", {"k": n})
            s.advance(0.1)
            if run.end is not None:
                break
        assert run.result is None
        assert run.ended_ms - run.started_ms < 65_000


def test_s36_positions_are_noted_although_nothing_happens(tmp_path: Path, on: On) -> None:
    """S36: a partition sees only events that match nothing; restart."""
    app = stepfold.App("t")
    with scenario(on(1), app, tmp_path) as s:
        for n in range(100):
            s.send("t/nothing", {"n": n})
        s.advance(30)
        s.restart()
        assert s.node.states()[0].positions[EVENTS, 0][0] == 100


def test_s28_step_outcomes_of_a_crashed_process_are_not_in_memory_but_in_the_journal(
    tmp_path: Path,
    on: On,
) -> None:
    """S28: what a query answers is durable."""
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        return await ctx.step.run("a", lambda: "done")

    with scenario(on(1), app, tmp_path) as s:
        log = faulty(s)
        log.faults.extend(["ok", "lost"])
        s.send("t/go")
        owner = s.node.owners[0]
        seqs: list[tuple[int, int]] = []

        async def ask() -> None:
            for _ in range(20):
                seq = await owner.query(lambda state: state.seq)
                seqs.append((seq, owner.confirmed_seq))
                await asyncio.sleep(0.05)

        s.do(ask())
        assert all(answered <= confirmed for answered, confirmed in seqs)
        s.until(lambda: s.of("f") and s.of("f")[0].end)
        assert len([e for e in s.of("f")[0].entries if isinstance(e, StepCompleted)]) == 1
