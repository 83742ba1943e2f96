"""The trip that needs a person's decision, in virtual time."""

import pytest

from examples.approval import app as approval
from stepfold.testing import Environment, MakeEnvironment, assert_deterministic


@pytest.fixture(autouse=True)
def nothing_booked() -> None:
    approval.booked.clear()


def test_a_trip_has_three_endings(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(approval.app)
    trips = [env.send("trip/asked", {"trip_id": n}).run for n in range(3)]
    env.at("1h").signal("trip/0", "yes")
    env.at("2h").signal("trip/1", "no")
    env.advance("71h")
    assert [trip.status for trip in trips] == ["completed", "completed", "waiting"]
    env.finish()
    assert [trip.result for trip in trips] == ["approved", "rejected", "escalated"]
    assert approval.booked == ["hotel 0", "flight 0"]
    assert [event.data for event in env.sent("trip/silent")] == [{"trip_id": 2}]


def test_a_trip_that_is_asked_for_twice_is_booked_once(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(approval.app)
    env.send("trip/asked", {"trip_id": 1})
    assert env.send("trip/asked", {"trip_id": 1}).runs == []
    assert approval.booked == ["hotel 1", "flight 1"]


def test_a_flight_that_cannot_be_booked_fails_the_trip(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(approval.app)
    flight = env.stub("book flight", raises=RuntimeError("sold out"))
    run = env.send("trip/asked", {"trip_id": 1}).run
    env.finish()
    assert run.status == "failed"
    assert "sold out" in str(run.error)
    assert len(flight.calls) == 5


def rejected(env: Environment) -> None:
    env.send("trip/asked", {"trip_id": 1})
    env.advance("1h")
    env.signal("trip/1", "no")


def test_a_rejected_trip_is_deterministic() -> None:
    assert_deterministic(approval.app, rejected)
