"""Runs come out of every kind of log whole, with what they invoked, without what is redacted."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.exporting.folders import FolderJournals
from stepfold_engine.exporting.gathering import Gatherer
from stepfold_engine.exporting.journals import Selection, find_run, select_runs
from stepfold_engine.exporting.redaction import MARKER, RedactionError, parse_path, redacted
from stepfold_engine.log.base import JOURNAL
from stepfold_engine.recordings import facts_in
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import (
    EventMatched,
    HistoryRestated,
    RunCompleted,
    RunParked,
    RunRestated,
    RunStarted,
    StepCompleted,
    WaitBegan,
)
from stepfold_schemas.ids import run_id, run_key
from stepfold_schemas.runfile import ExportedRun, RunFile
from tests.behaviour.scenario import Variant, scenario
from tests.replaying.shop import EMBEDDED, exported, refunded, shipped, shop


def through_a_file(*runs: ExportedRun) -> RunFile:
    out = io.BytesIO()
    codec.write_runs(out, RunFile(list(runs), "1.2", 5, "a test"))
    return codec.read_runs(io.BytesIO(out.getvalue()))


def test_a_run_comes_out_as_the_engine_recorded_it(tmp_path: Path) -> None:
    with scenario(EMBEDDED, shop(), tmp_path) as s:
        shipped(s, 1)
        run = shipped(s)
        shipped(s, 8)
    (found,) = exported(tmp_path, run.id)
    assert (found.function, found.status, found.asked) == ("shop-fulfil", "completed", True)
    kept = [e for e in run.entries if not isinstance(e, RunParked)]
    assert [type(f.entry) for f in facts_in(found)] == [type(e) for e in kept]
    assert [f.entry for f in facts_in(found)] == kept
    assert found.started_ms == run.at_ms[0]
    assert found.ended_ms == run.at_ms[-1]
    file = through_a_file(found)
    assert (file.first, file.made_by, file.made_ms, file.source) == (found, "1.2", 5, "a test")


@pytest.mark.parametrize("partitions", [1, 4])
def test_what_a_run_invoked_comes_along_if_it_is_asked_for(tmp_path: Path, partitions: int) -> None:
    with scenario(Variant("embedded", False, partitions), shop(), tmp_path) as s:
        shipped(s)
        run = refunded(s)
    assert len(exported(tmp_path, run.id)) == 1
    parent, child = exported(tmp_path, run.id, related=True)
    assert (parent.asked, child.asked, child.function) == (True, False, "shop-refund")
    assert child.invoker is not None
    assert child.invoker.run == parent.run


def test_a_run_whose_history_was_copied_by_rounds_is_whole(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "round_records_min": 10,
        "journal_keep_ms": 1_000,
        "positions_every_ms": 1_000,
    }
    with scenario(Variant("embedded", False, 1), shop(), tmp_path, **settings) as s:
        run = s.start_run("shop/order", {"order": 7})
        for order in range(20, 40):
            shipped(s, order)
        start = s.do(s.log.bounds(JOURNAL, 0)).start
        (now,) = exported(tmp_path, run.id)
        assert now.status == "unfinished"
        ended = s.ended(run)
    assert start > 0, "the beginning of the journal was trimmed"
    (found,) = exported(tmp_path, run.id)
    assert [f.entry for f in facts_in(found)] == [
        e for e in ended.entries if not isinstance(e, RunParked | RunRestated | HistoryRestated)
    ]


def test_records_that_do_not_count_are_left_out(tmp_path: Path) -> None:
    with scenario(Variant("embedded", False, 1), shop(), tmp_path) as s:
        run = s.start_run("shop/order", {"order": 7})
        s.takeover()
        s.advance(3_700)
        s.send("shop/packed", {"order": 7, "shelf": 3})
        ended = s.ended(run)
    (found,) = exported(tmp_path, run.id)
    entries = [f.entry for f in facts_in(found)]
    assert entries.count(next(e for e in entries if isinstance(e, RunCompleted))) == 1
    assert ended.result["state"] == "shipped"


def test_an_unknown_run_is_refused_with_its_id(tmp_path: Path) -> None:
    with scenario(EMBEDDED, shop(), tmp_path) as s:
        shipped(s)
    for home in (2, 77):
        with pytest.raises(RequestRefusedError, match="no run 01") as raised:
            exported(tmp_path, run_id(1_800_000_000_000, run_key(home, "f", "c")))
        assert raised.value.status == 404


def test_runs_are_selected_by_function_time_and_status(tmp_path: Path) -> None:
    with scenario(Variant("embedded", False, 1), shop(), tmp_path) as s:
        first = shipped(s)
        second = refunded(s)
        waiting = s.start_run("shop/order", {"order": 11})
        now = s.start_run("shop/order", {"order": 12})

    def selected(**wanted: Any) -> list[bytes]:
        journals = FolderJournals(tmp_path / "log")
        try:
            found = asyncio.run(select_runs(journals, 0, Selection(**wanted)))
            return [run.run for run in found]
        finally:
            journals.close()

    assert selected(function="shop-fulfil") == [first.id, second.id, waiting.id, now.id]
    assert selected(statuses=("unfinished",)) == [waiting.id, now.id]
    assert selected(since_ms=second.at_ms[-1], function="shop-fulfil") == [
        second.id,
        waiting.id,
        now.id,
    ]


def test_a_gatherer_reads_on_only_until_all_runs_have_ended(tmp_path: Path) -> None:
    with scenario(Variant("memory", False, 1), shop(), tmp_path) as s:
        run = shipped(s)
        journal = [codec.encode(decision) for decision in s.journal()]
    gatherer = Gatherer(at_start=True, keys=[run.id[6:]])
    for index, value in enumerate(journal):
        assert not gatherer.done
        gatherer.take([value])
        if gatherer.done:
            assert index < len(journal)
            break
    assert len(gatherer.runs()) == 1


# Redaction.


def redact(tmp_path: Path, *paths: str) -> ExportedRun:
    with scenario(EMBEDDED, shop(), tmp_path) as s:
        run = shipped(s)
    (found,) = exported(tmp_path, run.id)
    return redacted(found, list(paths))


def test_redacted_values_are_nowhere_in_the_file(tmp_path: Path) -> None:
    run = redact(tmp_path, "event.data.card.number", "step.charge.token", "password")
    facts = [fact.entry for fact in facts_in(run)]
    started = next(e for e in facts if isinstance(e, RunStarted))
    data = json.loads(codec.decode_event(started.events[0]).data)
    assert data == {"order": 7, "card": {"number": MARKER}}
    charged = next(e for e in facts if isinstance(e, StepCompleted))
    assert json.loads(charged.data) == {"id": "pay-7", "token": MARKER}
    matched = next(e for e in facts if isinstance(e, EventMatched))
    assert json.loads(codec.decode_event(matched.event).data)["password"] == MARKER
    wait = next(e for e in facts if isinstance(e, WaitBegan))
    assert (wait.condition.bindings, wait.condition.terms) == (b"{}", [])
    assert run.redacted == ["event.data.card.number", "password", "step.charge.token"]
    assert b"4111" not in b"".join(item.entry for item in run.journal)
    assert through_a_file(run).first == run


def test_results_and_whole_outcomes_can_be_redacted(tmp_path: Path) -> None:
    run = redact(tmp_path, "result.payment", "step.charge")
    facts = [fact.entry for fact in facts_in(run)]
    end = next(e for e in facts if isinstance(e, RunCompleted))
    assert json.loads(end.data) == {"state": "shipped", "payment": MARKER, "shelf": 3}
    assert next(e for e in facts if isinstance(e, StepCompleted)).data == b'"[redacted]"'


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "a path such as"),
        ("event.data..x", "a path such as"),
        ("event.card", "below event comes data or user"),
        ("step", "step.NAME"),
        ("data.card", "begins with event, step or result"),
    ],
)
def test_a_path_that_means_nothing_is_refused(path: str, says: str) -> None:
    with pytest.raises(RedactionError, match=says):
        parse_path(path)


# The file.


def test_any_avro_reader_can_read_a_file(tmp_path: Path) -> None:
    with scenario(EMBEDDED, shop(), tmp_path) as s:
        run = shipped(s)
    out = io.BytesIO()
    codec.write_runs(out, RunFile(exported(tmp_path, run.id)))
    reader: Any = fastavro.reader(io.BytesIO(out.getvalue()))
    (plain,) = list(reader)
    schemas = json.loads(reader.metadata["stepfold.entry_schemas"])
    for item in plain["journal"]:
        schema: Any = fastavro.parse_schema(schemas[item["entry"][2:10].hex()])
        entry: Any = fastavro.schemaless_reader(io.BytesIO(item["entry"][10:]), schema, None)
        assert schema["name"].endswith(item["type"])
        assert entry.get("run", run.id) == run.id


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a run file"),
        (b"PK\x03\x04 zip", "not a run file"),
        (b"Obj\x01", "not a run file"),
    ],
)
def test_what_is_no_run_file_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(UndecodableError, match=says):
        codec.read_runs(io.BytesIO(data))


def test_a_file_of_a_newer_format_names_what_to_do(tmp_path: Path) -> None:
    with scenario(EMBEDDED, shop(), tmp_path) as s:
        run = shipped(s)
    out = io.BytesIO()
    codec.write_runs(out, RunFile(exported(tmp_path, run.id)))
    newer = out.getvalue().replace(b"stepfold.format\x021", b"stepfold.format\x029")
    with pytest.raises(UndecodableError, match="newer release"):
        codec.read_runs(io.BytesIO(newer))


@pytest.mark.parametrize("cut", [100, -40, -1])
def test_a_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    with scenario(EMBEDDED, shop(), tmp_path) as s:
        run = shipped(s)
    out = io.BytesIO()
    codec.write_runs(out, RunFile(exported(tmp_path, run.id)))
    with pytest.raises(UndecodableError):
        codec.read_runs(io.BytesIO(out.getvalue()[:cut]))


def test_find_run_is_what_the_folder_gives(tmp_path: Path) -> None:
    with scenario(EMBEDDED, shop(), tmp_path) as s:
        run = shipped(s)
        beside = s.do(find_run(s.log, run.id))
    assert beside == exported(tmp_path, run.id)
