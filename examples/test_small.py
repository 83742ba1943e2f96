"""The small examples, in virtual time."""

from pathlib import Path

from examples.agent import app as agent
from examples.approval import app as approval
from examples.drip import app as drip
from tests.behaviour.scenario import Variant, scenario

HERE = Variant("memory", False, 1)
DAY_MS = 86_400_000


def test_the_campaign_takes_eleven_days_and_ends_early_for_who_leaves(tmp_path: Path) -> None:
    drip.sent.clear()
    with scenario(HERE, drip.app, tmp_path) as s:
        stays = s.start_run("user/signed-up", {"email": "a@example.org"})
        leaves = s.start_run("user/signed-up", {"email": "b@example.org"})
        s.advance(2 * 86_400)
        s.send("user/deleted", {"email": "b@example.org"})
        assert s.ended(stays).result == 4
        assert leaves.status == "cancelled"
        assert 11 * DAY_MS <= stays.ended_ms - stays.started_ms < 11 * DAY_MS + 60_000
        mails = {to: [t for who, t in drip.sent if who == to] for to, _ in drip.sent}
        assert mails["a@example.org"] == ["welcome", "tips", "story", "offer"]
        assert mails["b@example.org"] == ["welcome", "tips"]


def test_a_trip_has_three_endings(tmp_path: Path) -> None:
    approval.booked.clear()
    with scenario(HERE, approval.app, tmp_path) as s:
        trips = [s.start_run("trip/asked", {"trip_id": n}) for n in range(3)]
        s.advance(60)
        s.signal("trip/0", "yes")
        s.signal("trip/1", "no")
        assert [s.ended(t).result for t in trips] == ["approved", "rejected", "escalated"]
        assert approval.booked == ["hotel 0", "flight 0"]


def test_the_agent_pays_for_each_call_once(tmp_path: Path) -> None:
    with scenario(HERE, agent.app, tmp_path) as s:
        run = s.run("agent/asked")
        assert run.result["turns"] == 4
        assert "4 squared is 16" in run.result["answer"]
        assert run.steps == [
            "model", "tool", "model:1", "tool:1", "model:2", "tool:2", "model:3",
        ]  # fmt: skip
