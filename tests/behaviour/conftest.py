"""Fixtures: every behavioural test runs on every variant of the engine."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import stepfold
from tests.behaviour.scenario import VARIANTS, Scenario, Variant, scenario

Running = Callable[..., AbstractContextManager[Scenario]]


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


@pytest.fixture
def running(variant: Variant, tmp_path: Path) -> Running:
    """Give a function that runs an app on the engine: ``with running(app) as s:``."""

    def make(app: stepfold.App, **settings: Any) -> AbstractContextManager[Scenario]:
        return scenario(variant, app, tmp_path, **settings)

    return make
