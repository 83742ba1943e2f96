"""Chaos in short: one round on each kind of disk, and that a loss would be found.

More of it: ``make chaos ROUNDS=100``.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stepfold_schemas.ids import ulid_text
from tests.chaos import disk
from tests.chaos.audit import audit
from tests.chaos.campaign import PLAIN, RECORDED, SMALL, Campaign, Terms
from tests.chaos.disk import UnavailableError
from tests.chaos.journals import Journals, RunSaid
from tests.chaos.load import Sent
from tests.chaos.outside import Deed

SETTINGS = {"round_records_min": 300, "trial_survive_ms": 200, "deaths_max": 1_000_000}
LOSSES_MAX = 6
RATE = 20.0


def fought(folder: Path, terms: Terms, *acts: str) -> Campaign:
    chance = random.Random(folder.name)
    try:
        campaign = Campaign(folder, terms, chance)
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        campaign.round(acts)
    finally:
        campaign.close()
    return campaign


@pytest.mark.process
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("mode", "acts"),
    [
        pytest.param(PLAIN, ["second", "torn"], id="stopped-killed-torn"),
        pytest.param(RECORDED, ["failing syncs", "power"], id="power-lost"),
        pytest.param(SMALL, ["full"], id="full-disk"),
    ],
)
def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path, mode: str, acts: list[str]) -> None:
    terms = Terms(mode, 2, SETTINGS, trimmed=False, sync_us_max=3_000, rate=RATE)
    campaign = fought(tmp_path, terms, *acts)
    assert not campaign.findings, "\n".join([*campaign.findings.lines(20), *campaign.story])
    assert campaign.figures.events > 0


@pytest.mark.process
@pytest.mark.timeout(200)
def test_a_log_that_does_not_sync_is_found_out(tmp_path: Path) -> None:
    terms = Terms(RECORDED, 1, SETTINGS, trimmed=False, sync_us_max=0, careless=True, rate=RATE)
    for number in range(LOSSES_MAX):
        if fought(tmp_path / str(number), terms, "power").findings:
            return
    pytest.fail(f"power was lost {LOSSES_MAX} times, nothing was synced, and nobody noticed")


# What the record of a disk means.


def left_of(tmp_path: Path, *happened: tuple[int, str, int, bytes]) -> set[bytes | None]:
    """Return what may be left of a file, over many losses of power."""
    base, folder = tmp_path / "base", tmp_path / "folder"
    for needed in (base, folder):
        needed.mkdir(exist_ok=True)
    (base / "old").write_bytes(b"....")
    found: set[bytes | None] = set()
    for seed in range(60):
        platter = disk.Platter(base, random.Random(seed))
        for one in happened:
            platter.take(*one)
        platter.lose_power(folder)
        new = folder / "new"
        found.add(new.read_bytes() if new.exists() else None)
        old = folder / "old"
        found.add(old.read_bytes() if old.exists() else None)
    return found


def wrote(name: str, at: int, data: bytes) -> tuple[int, str, int, bytes]:
    return disk.WRITE, name, at, data


def synced(name: str) -> list[tuple[int, str, int, bytes]]:
    return [(disk.SYNC_BEGIN, name, 3, b""), (disk.SYNC_END, name, 3, b"")]


def test_a_write_is_there_or_not_until_its_sync_has_ended(tmp_path: Path) -> None:
    write = wrote("old", 1, b"AB")
    begun, ended = synced("old")
    assert left_of(tmp_path, write) == {b"....", b".AB.", None}
    assert left_of(tmp_path, write, begun) == {b"....", b".AB.", None}
    assert left_of(tmp_path, write, begun, ended) == {b".AB.", None}
    # A sync covers what came before it began.
    assert b".AB." in left_of(tmp_path, begun, write, ended)
    assert b"...." in left_of(tmp_path, begun, write, ended)


def test_a_failed_sync_is_mended_by_no_later_one(tmp_path: Path) -> None:
    begun, ended = synced("old")
    failed = (disk.SYNC_FAIL, "old", 3, b"")
    left = left_of(tmp_path, wrote("old", 0, b"AB"), begun, failed, begun, ended)
    assert left == {b"....", b"AB..", None}


def test_a_new_file_has_its_name_when_its_folder_was_synced(tmp_path: Path) -> None:
    made = [(disk.CREATE, "new", 0, b""), wrote("new", 0, b"AB"), *synced("new")]
    assert left_of(tmp_path, *made) == {b"....", b"AB", None}
    assert left_of(tmp_path, *made, *synced(".")) == {b"....", b"AB"}


# What the audit finds.


RESULT = {"n": 1, "tokens": ["a", "b"], "by": "person 1"}
SENT = Sent("c/approval", "approval-1", {"n": 1})
RUN = ulid_text(bytes(16))


def said(**other: object) -> RunSaid:
    run = RunSaid("c-approval", SENT.id, 1, [("completed", RESULT)])
    run.tokens = {"ask": (1, "a"), "grant": (1, "b")}
    run.recorded_in = {"ask": 1, "grant": 1}
    for name, value in other.items():
        setattr(run, name, value)
    return run


def deed(life: int, step: str, token: str, seen: tuple[str, ...] = ()) -> Deed:
    return Deed(life, SENT.name, 1, RUN, step, 1, 1 if step == "ask" else 2, token, seen)


ASKED, GRANTED = deed(1, "ask", "a"), deed(1, "grant", "b", ("a",))


def audited(*runs: RunSaid, deeds: Sequence[Deed] = (ASKED, GRANTED), log: bool = True) -> str:
    journals = Journals()
    for number, run in enumerate(runs):
        journals.runs[ulid_text(bytes(15) + bytes([number]))] = run
        journals.starts[run.function, run.event] += 1
    journals.events = {SENT.id} if log else set()
    return "\n".join(audit({SENT.id: SENT}, journals, deeds)[0].lines(9))


def test_the_audit_finds_nothing_where_nothing_is_wrong() -> None:
    assert audited(said()) == ""
    # The process died before the outcome was recorded.
    again = [deed(0, "ask", "z"), ASKED, GRANTED]
    assert audited(said(), deeds=again) == ""


@pytest.mark.parametrize(
    ("found", "finds"),
    [
        pytest.param(audited, "LOST: event .* started no c-approval", id="no-run"),
        pytest.param(lambda: audited(said(), log=False), "LOST: .* not in the log", id="no-event"),
        pytest.param(lambda: audited(said(ends=[])), "LOST: .* has not ended", id="no-end"),
        pytest.param(lambda: audited(said(function="")), "LOST: .* beginning", id="no-beginning"),
        pytest.param(lambda: audited(said(), said()), "DOUBLED: .* 2 times", id="two-runs"),
        pytest.param(
            lambda: audited(said(ends=[("completed", RESULT)] * 2)),
            "DOUBLED: .* ended 2 times",
            id="two-ends",
        ),
        pytest.param(
            lambda: audited(said(outcomes=Counter({"ask": 2}))),
            "DOUBLED: .* 2 outcomes of step ask",
            id="two-outcomes",
        ),
        pytest.param(
            lambda: audited(said(), deeds=[deed(1, "ask", "z"), ASKED, GRANTED]),
            "DOUBLED: .* twice in one life",
            id="twice-in-one-life",
        ),
        pytest.param(
            lambda: audited(said(), deeds=[ASKED, GRANTED, deed(2, "ask", "z")]),
            "DOUBLED: .* had run already\n(.*\n)*.*after its outcome was recorded",
            id="too-late",
        ),
        pytest.param(
            lambda: audited(said(ends=[("failed", None)])), "WRONG: .* failed", id="wrong-end"
        ),
        pytest.param(
            lambda: audited(said(), deeds=[ASKED, deed(1, "grant", "b", ("z",))]),
            "WRONG: .* other outcomes than were recorded",
            id="went-on-with-another",
        ),
        pytest.param(
            lambda: audited(said(), deeds=[deed(1, "ask", "z"), GRANTED]),
            "WRONG: .* no body",
            id="outcome-of-no-body",
        ),
    ],
)
def test_the_audit_finds_what_is_wrong(found: Callable[[], str], finds: str) -> None:
    assert re.search(finds, found())
