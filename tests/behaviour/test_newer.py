"""Rolling upgrades: what a newer release wrote stops a partition in a process that is older."""

from pathlib import Path

import pytest

import stepfold
from stepfold_engine.core.fold import claim_in
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, INBOX, JOURNAL, NewRecord
from stepfold_engine.readers import event_record
from stepfold_schemas import codec
from stepfold_schemas.entries import PartitionReleased
from stepfold_schemas.events import Event
from stepfold_schemas.ids import partition_of
from stepfold_schemas.messages import Letter, SignalSent
from tests.behaviour.scenario import Scenario, Variant, scenario

NEWER = b"\xc3\x01newer!!!"
"""What begins a value of a schema that nobody here knows."""

FOUR = Variant("memory", False, 4)
HOME = partition_of("approval", FOUR.partitions)


@pytest.fixture
def app() -> stepfold.App:
    app = stepfold.App("t")

    @app.function("ask", on="t/ask")
    async def ask(ctx: stepfold.Context) -> object:
        said = await ctx.step.wait_for_signal("a", signal="approval", timeout="30d")
        return None if said is None else said.data

    @app.function("go", on="t/go")
    async def go(ctx: stepfold.Context) -> int:
        return await ctx.step.run("one", lambda: int(ctx.event.data["n"]))

    return app


def understand(monkeypatch: pytest.MonkeyPatch, value: bytes) -> None:
    """Make this process one of the newer release."""
    monkeypatch.setitem(codec._BY_HEADER, NEWER, codec._BY_HEADER[value[: len(NEWER)]])


def letters(s: Scenario) -> int:
    return sum(s.do(s.log.bounds(DEAD_LETTERS, p)).end for p in range(FOUR.partitions))


@pytest.mark.parametrize("whole", [False, True])
def test_a_message_of_a_newer_release_waits_for_a_process_that_can_read_it(
    app: stepfold.App, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = codec.encode(SignalSent("approval", b'"yes"'))
    known = codec.encode(Letter(-1, 0, b"r" * 16, signal)) if whole else signal
    newer = NEWER + known[len(NEWER) :]
    record = newer if whole else codec.encode(Letter(-1, 0, b"r" * 16, newer))
    with scenario(FOUR, app, tmp_path) as s:
        s.send("t/ask", {}, id="ask")
        s.advance(1)
        s.do(s.log.append(INBOX, HOME, [NewRecord(record)]))
        s.advance(600)
        assert list(s.node.stopped_partitions) == [HOME]
        why = s.node.stopped_partitions[HOME]
        assert f"fingerprint {NEWER[2:].hex()}" in why
        assert "Upgrade this process" in why
        assert letters(s) == 0
        last = [d for number, d in s.decisions if number == HOME][-1]
        assert any(isinstance(entry, PartitionReleased) for entry in last.entries)
        for n in range(40):
            s.send("t/go", {"n": n})
        s.advance(600)
        assert 10 < len([run for run in s.of("go") if run.end]) < 40  # the others go on

        understand(monkeypatch, known)
        s.restart()
        s.advance(600)
        assert not s.node.stopped_partitions
        assert [run.result for run in s.of("ask")] == ["yes"]
        assert len([run for run in s.of("go") if run.end]) == 40
        assert letters(s) == 0


def test_a_journal_of_a_newer_release_is_left_alone(
    app: stepfold.App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scenario(FOUR, app, tmp_path) as s:
        for n in range(40):
            s.send("t/go", {"n": n})
        s.advance(600)
        s.crash()
        last = s.do(s.log.read(JOURNAL, 2, s.do(s.log.bounds(JOURNAL, 2)).end - 1)).records[0]
        decision = codec.decode_decision(last.value)
        known = codec.encode(
            type(decision)(
                decision.epoch, decision.seq + 1, decision.at_ms, decision.fold_from, [], []
            )
        )
        s.do(s.log.append(JOURNAL, 2, [NewRecord(NEWER + known[len(NEWER) :])]))
        end = s.do(s.log.bounds(JOURNAL, 2)).end
        s.complete = False
        s.start()
        s.advance(600)
        assert list(s.node.stopped_partitions) == [2]
        assert "journal/2 offset" in s.node.stopped_partitions[2]
        assert "written by a newer release" in s.node.stopped_partitions[2]
        assert s.do(s.log.bounds(JOURNAL, 2)).end == end  # not even claimed

        understand(monkeypatch, known)
        s.restart()
        assert not s.node.stopped_partitions
        (claim,) = s.do(s.log.read(JOURNAL, 2, end)).records[:1]
        assert claim_in(codec.decode_decision(claim.value)) is not None


def test_an_event_of_a_newer_release_is_a_dead_letter(app: stepfold.App, tmp_path: Path) -> None:
    with scenario(FOUR, app, tmp_path) as s:
        record = event_record(Event("t/go", b'{"n": 1}', "e"))
        newer = NewRecord(NEWER + record.value[len(NEWER) :], record.key, record.headers)
        s.do(s.log.append(EVENTS, 0, [newer]))
        s.send("t/go", {"n": 2})
        s.advance(600)
        assert letters(s) == 1
        assert not s.node.stopped_partitions
        assert [run.result for run in s.of("go")] == [2]
