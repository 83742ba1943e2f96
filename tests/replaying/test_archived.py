"""A finished run is taken home, and run again, when its journal is gone: from its recording."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stepfold_engine.projecting.recorder import JournalRecorder
from stepfold_engine.settings import Settings
from stepfold_engine.sources import FolderSource
from stepfold_projections.archive import Retention, archive, forget
from stepfold_projections.keeping import tables_of
from stepfold_projections.projector import Projector
from stepfold_projections.store import Store
from stepfold_schemas.ids import home_of, parse_ulid
from tests.e2e.test_cli import until
from tests.replaying.test_export_command import read, served

SMALL = Settings(round_records_min=10, journal_keep_ms=0)

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def kept(folder: Path, days: int = 5, *, keep: Retention | None = None) -> None:
    """Do what a projector does each hour, some days later."""
    now = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=days)
    source, store = FolderSource(folder), Store(tables_of(folder))
    try:
        Projector(source, store).catch_up()
        archive(store, now, JournalRecorder(source))
        if keep is not None:
            forget(store, keep, now)
    finally:
        store.close()
        source.close()


def test_a_run_whose_journal_is_gone_is_exported_and_rerun(tmp_path: Path) -> None:
    log, whole, one = tmp_path / "log", tmp_path / "whole.avro", tmp_path / "one.avro"
    with served(log, [7, 13]) as s:
        seven, thirteen = s.ended
        s.ok("export", seven, "-o", str(whole), "--with-related", "--url", s.url)
    kept(log)
    with served(log, list(range(20, 50)), tables=True, settings=SMALL) as s:
        source = FolderSource(log)
        for run in (seven, thirteen):
            assert source.bounds("journal", home_of(parse_ulid(run)))[0] > 5, "it was trimmed"
        source.close()
        s.ok("export", seven, "-o", str(one), "--with-related", "--url", s.url)
        assert read(one).runs == read(whole).runs
        s.ok("export", seven[-8:], "-o", str(one), "--url", s.url)
        assert read(one).runs == read(whole).runs[:1]
        new = s.ok("rerun", seven, "--input", json.dumps({"order": 8}), "--url", s.url).split()[0]
        until(lambda: new in s.everything, "the end of the rerun")
        said = s.cli("rerun", thirteen, "--from", "charge", "--url", s.url).output
        assert "no step 'charge'" in said
        other = seven[:-1] + ("0" if seven[-1] != "0" else "1")
        assert f"no run {other}" in s.cli("export", other, "--url", s.url).output
    (log / "history.db").unlink()
    said = s.ok("export", seven, "-o", str(one), "--with-related", "--data", str(log))
    assert "left out: what step 'refund'" in said, "only an engine looks for that one, too"
    assert read(one).runs == read(whole).runs[:1]
    kept(log, 500, keep=Retention(completed=300, failed=900))
    assert f"no run {seven}" in s.cli("export", seven, "--data", str(log)).output
    s.ok("export", thirteen, "-o", str(one), "--data", str(log))
    assert read(one).first.status == "failed"
