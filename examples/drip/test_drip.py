"""The drip campaign, in virtual time."""

from datetime import timedelta

import pytest

from examples.drip import app as drip
from stepfold.testing import (
    CrashFoundError,
    MakeEnvironment,
    assert_deterministic,
    crash_everywhere,
)


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    drip.sent.clear()


def test_the_campaign_takes_eleven_days(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(drip.app)
    run = env.send("user/signed-up", {"email": "a@example.org"}).run
    env.advance("1d")
    assert drip.sent == [("a@example.org", "welcome"), ("a@example.org", "tips")]
    env.finish(run)
    assert run.result == 4
    assert run.duration == timedelta(days=11)


def test_who_leaves_gets_no_more_mails(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(drip.app)
    stays = env.send("user/signed-up", {"email": "a@example.org"}).run
    leaves = env.send("user/signed-up", {"email": "b@example.org"}).run
    env.at("2d").send("user/deleted", {"email": "b@example.org"})
    env.finish()
    assert (stays.status, leaves.status) == ("completed", "cancelled")
    assert [template for to, template in drip.sent if to == "b@example.org"] == ["welcome", "tips"]


def test_a_mail_may_go_twice_when_the_process_dies() -> None:
    """Mail knows no idempotency key: the kit finds it, and this app lives with it."""
    signed_up = {"name": "user/signed-up", "data": {"email": "a@example.org"}}
    with pytest.raises(CrashFoundError) as found:
        crash_everywhere(
            drip.drip, signed_up, fresh=drip.sent.clear, observe=lambda: list(drip.sent)
        )
    assert {step for crash in found.value.report.crashes for _, step, _ in crash.repeated} == {
        "send", "send:1", "send:2", "send:3",
    }  # fmt: skip
    crash_everywhere(drip.drip, signed_up, fresh=drip.sent.clear, observe=lambda: set(drip.sent))


def test_the_campaign_is_deterministic() -> None:
    signed_up = {"name": "user/signed-up", "data": {"email": "a@example.org"}}
    assert_deterministic(drip.drip, signed_up, fresh=drip.sent.clear)
