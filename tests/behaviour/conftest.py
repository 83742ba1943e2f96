"""Fixtures: every behavioural test runs on every variant of the engine, also on a real broker."""

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stepfold
from tests.behaviour.scenario import ON_KAFKA, VARIANTS, Scenario, Variant, scenario

HERE = Path(__file__).parent
Running = Callable[..., AbstractContextManager[Scenario]]
On = Callable[..., Variant]

EVERY_VARIANT = [*VARIANTS, *(pytest.param(v, marks=pytest.mark.kafka) for v in ON_KAFKA)]
KAFKA = pytest.param("kafka", marks=pytest.mark.kafka)

WHOLE = "STEPFOLD_TEST_KAFKA_REQUIRED"
"""Set by ``make test-kafka``: all of this folder runs on the broker. Else only some of it does."""

SOME_FILES = {"test_waits.py"}
SOME_VARIANT = "kafka-hot-p4"

LONG = "the engine looks every 15 minutes at what may be trimmed: 700,000 requests in a year"

NOT_ON_KAFKA = {
    "test_a_sleep_ends_at_its_time_and_not_before[kafka-{}-366 days, 0:00:00-31622400000]": LONG,
    "test_s15_restating_keeps_everything_and_recovery_begins_at_the_round[kafka-{}]": LONG,
    "test_a_journal_is_kept_within_its_size_over_restarts[kafka-{}]": LONG,
    "test_s34_a_run_holds_its_event_when_the_topic_no_longer_does[kafka-{}]": (
        "events are shared there: the retention of their topic removes them, not the engine"
    ),
}
"""Tests that do not run on the broker, each with its reason."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not for the broker, or not for an ordinary run."""
    whole = bool(os.environ.get(WHOLE))
    dropped = [item for item in items if _is_dropped(item, whole=whole)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def _is_dropped(item: pytest.Item, *, whole: bool) -> bool:
    if item.path.parent != HERE or item.get_closest_marker("kafka") is None:
        return False
    name = re.sub(r"kafka-(hot|replay)-p\d", "kafka-{}", item.name)
    if name in NOT_ON_KAFKA:
        return True
    some = item.path.name in SOME_FILES and SOME_VARIANT in item.name and "days" not in item.name
    return not whole and not some


@pytest.fixture(params=EVERY_VARIANT, ids=str)
def variant(request: pytest.FixtureRequest) -> Variant:
    """Give every way to run the engine."""
    return _with_broker(request.param, request)


@pytest.fixture(params=["memory", KAFKA])
def on(request: pytest.FixtureRequest) -> On:
    """Give a function that makes a way to run the engine, on a quick log and on Kafka: ``on(4)``.

    For tests that put a failing log around it, which outlives the engine's crash.
    """
    return _on(request)


@pytest.fixture(params=["embedded", KAFKA])
def stored(request: pytest.FixtureRequest) -> On:
    """Give the same on the logs that outlive a process."""
    return _on(request)


def _on(request: pytest.FixtureRequest) -> On:
    log: str = request.param

    def make(partitions: int, replay: bool = False) -> Variant:
        return _with_broker(Variant(log, replay, partitions), request)

    return make


def _with_broker(variant: Variant, request: pytest.FixtureRequest) -> Variant:
    if variant.log != "kafka":
        return variant
    return replace(variant, servers=request.getfixturevalue("kafka").servers)


@pytest.fixture
def running(variant: Variant, tmp_path: Path) -> Running:
    """Give a function that runs an app on the engine: ``with running(app) as s:``."""

    def make(app: stepfold.App, **settings: Any) -> AbstractContextManager[Scenario]:
        return scenario(variant, app, tmp_path, **settings)

    return make
