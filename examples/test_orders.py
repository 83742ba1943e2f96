"""The orders example, in virtual time."""

from pathlib import Path

import pytest

from tests.behaviour.scenario import Variant, scenario


def test_orders_are_shipped_approved_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.orders import app as orders

    monkeypatch.setattr(orders, "FOLDER", tmp_path)
    with scenario(Variant("memory", False, 1), orders.app, tmp_path) as s:
        small = s.start_run("shop/order.created", {"order_id": "order-3", "amount": 20})
        large = s.start_run("shop/order.created", {"order_id": "order-4", "amount": 950})
        bad = s.start_run("shop/order.created", {"order_id": "order-5", "amount": -1})
        assert s.ended(small).result["state"] == "shipped"
        assert small.failed_attempts("charge") == 1
        assert s.ended(large).result["state"] == "shipped"
        assert "approval" in str(large.entries)
        assert s.ended(bad).status == "failed"
        s.until(lambda: s.of("fulfil-order-failure") and s.of("fulfil-order-failure")[0].end)
        assert "amount -1" in s.of("fulfil-order-failure")[0].result["told"]
