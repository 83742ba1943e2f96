"""The orders example, in virtual time."""

from collections import Counter
from pathlib import Path

import pytest

from examples.orders import app as orders
from stepfold.testing import MakeEnvironment, assert_deterministic, crash_everywhere

SMALL = {"order_id": "order-4", "amount": 20}
LARGE = {"order_id": "order-4", "amount": 950}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(orders, "FOLDER", tmp_path)
    return tmp_path


def test_a_small_order_is_shipped(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(orders.app)
    run = env.send("shop/order.created", SMALL).run
    env.finish()
    assert run.result["state"] == "shipped"
    assert run.result["payment"] == "pay-order-4"
    assert env.sent() == []


def test_a_busy_payment_service_is_asked_again(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(orders.app)
    env.stub("charge", raises=orders.PaymentDownError("no answer"), times=3)
    run = env.send("shop/order.created", SMALL).run
    env.finish()
    assert run.step("charge").attempts == 4
    assert run.result["state"] == "shipped"


def test_a_large_order_waits_for_approval(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(orders.app)
    run = env.send("shop/order.created", LARGE).run
    env.advance("500ms")
    assert run.step("approval").status == "waiting"
    assert [event.data for event in env.sent("shop/approval.asked")] == [{"order_id": "order-4"}]
    env.finish(run)
    assert run.result["state"] == "shipped"


def test_a_large_order_that_nobody_approves_is_not_shipped(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(orders.app)
    env.stub("approve", returns=[], function=orders.approve)
    run = env.send("shop/order.created", LARGE).run
    env.advance("59m")
    assert run.status == "waiting"
    env.advance("2m")
    assert run.result == {"order_id": "order-4", "state": "not approved"}


def test_the_customer_of_a_bad_order_is_told(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(orders.app)
    run = env.send("shop/order.created", {"order_id": "order-5", "amount": -1}).run
    env.finish()
    assert run.status == "failed"
    assert run.step("validate").attempts == 1
    assert "amount -1" in env.run_of("fulfil-order-failure").result["told"]


def test_an_order_comes_out_the_same_wherever_the_process_dies(folder: Path) -> None:
    """The bodies only write a line; a line that is there twice is no harm."""
    log = folder / "bodies.log"

    def lines() -> set[str]:
        return {line.split()[1] for line in log.read_text().splitlines()}

    report = crash_everywhere(
        orders.fulfil_order,
        {"name": "shop/order.created", "data": LARGE},
        fresh=lambda: log.unlink(missing_ok=True),
        observe=lines,
    )
    assert report.repeated["shop-fulfil-order", "charge"]


def test_the_code_of_orders_is_deterministic() -> None:
    assert_deterministic(orders.app, {"name": "shop/order.created", "data": LARGE})


def test_bodies_run_once_if_nothing_goes_wrong(stepfold_env: MakeEnvironment, folder: Path) -> None:
    env = stepfold_env(orders.app)
    for number in range(20):
        env.send("shop/order.created", {"order_id": f"order-{number}", "amount": 30})
    env.finish()
    lines = (folder / "bodies.log").read_text().splitlines()
    ran = Counter(tuple(line.split()[:3]) for line in lines)
    assert set(ran.values()) == {1}
    assert {run.result["state"] for run in env.runs_of("fulfil-order")} == {"shipped"}
