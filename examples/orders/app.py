"""Orders: reserve, charge, pack, ask for approval if it is a large one, ship.

Every step's body writes a line to a file, so that the demo can show which ones ran how often.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import stepfold

app = stepfold.App("shop")

FOLDER = Path(os.environ.get("ORDERS_FOLDER", ".demo"))
LARGE = 900


class PaymentDownError(Exception):
    """The payment service did not answer."""


def note(order_id: str, step: str) -> None:
    """Write down that a step's body ran; one write, so that a kill cannot tear a line."""
    info = stepfold.step_info()
    line = f"{order_id} {step} {info.attempt} {os.getpid()}\n"
    file = os.open(FOLDER / "bodies.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


async def validate(order: dict[str, Any]) -> dict[str, Any]:
    note(order["order_id"], "validate")
    if order["amount"] <= 0:
        raise stepfold.NonRetriableError(f"order {order['order_id']}: amount {order['amount']}")
    return {"order_id": order["order_id"], "amount": order["amount"]}


async def reserve(order: dict[str, Any]) -> dict[str, Any]:
    note(order["order_id"], "reserve")
    await asyncio.sleep(0.01)
    return {"shelf": sum(order["order_id"].encode()) % 40}


@stepfold.step(retries=4, timeout="5s")
async def charge(order: dict[str, Any]) -> dict[str, Any]:
    note(order["order_id"], "charge")
    await asyncio.sleep(0.02)
    flaky = int(order["order_id"].split("-")[1]) % 10 == 3
    if flaky and stepfold.step_info().attempt == 1:
        raise stepfold.RetryAfterError("the payment service is busy", after=1)
    return {"payment": f"pay-{order['order_id']}"}


def ship(order: dict[str, Any], shelf: int) -> dict[str, Any]:
    """A plain function works the same: it runs in a thread."""
    note(order["order_id"], "ship")
    return {"parcel": f"{order['order_id']}-from-{shelf}"}


@app.function("fulfil-order", on="shop/order.created")
async def fulfil_order(ctx: stepfold.Context) -> dict[str, Any]:
    order = await ctx.step.run("validate", validate, ctx.event.data)
    stock, payment = await asyncio.gather(
        ctx.step.run("reserve", reserve, order),
        ctx.step.run("charge", charge, order),
    )
    if order["amount"] >= LARGE:
        await ctx.step.send_event(
            "ask", {"name": "shop/approval.asked", "data": {"order_id": order["order_id"]}}
        )
        approval = await ctx.step.wait_for_event(
            "approval", event="shop/order.approved", match="data.order_id", timeout="1h"
        )
        if approval is None:
            return {"order_id": order["order_id"], "state": "not approved"}
    await ctx.step.sleep("pack", "2s")
    parcel = await ctx.step.run("ship", ship, order, stock["shelf"])
    return {"order_id": order["order_id"], "state": "shipped", **payment, **parcel}


@fulfil_order.on_failure
async def refuse_order(ctx: stepfold.Context) -> dict[str, Any]:
    order = ctx.event.data["event"]["data"]

    async def tell_customer() -> str:
        note(order["order_id"], "tell-customer")
        return ctx.event.data["error"]["message"]

    return {"told": await ctx.step.run("tell-customer", tell_customer)}


@app.function("approve", on="shop/approval.asked")
async def approve(ctx: stepfold.Context) -> None:
    """Stands in for the person who approves large orders."""
    await ctx.step.sleep("think", "1s")
    approved = {"name": "shop/order.approved", "data": {"order_id": ctx.event.data["order_id"]}}
    await ctx.step.send_event("approve", approved)
