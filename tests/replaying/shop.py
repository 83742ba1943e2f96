"""An app whose runs the tests export and replay, and how a run of it comes to be."""

import asyncio
from pathlib import Path
from typing import Any

import stepfold
from stepfold_engine.exporting.folders import FolderJournals
from stepfold_engine.exporting.journals import find_run
from stepfold_schemas.runfile import ExportedRun
from tests.behaviour.scenario import RunRecord, Scenario, Variant, scenario

EMBEDDED = Variant("embedded", False, 4)

RAN: list[str] = []
"""Every body that ran, in this process."""


def body(name: str, result: Any = None) -> Any:
    async def run() -> Any:
        RAN.append(name)
        if isinstance(result, BaseException):
            raise result
        return result

    return run


def shop() -> stepfold.App:
    app = stepfold.App("shop")

    @app.function("refund", retries=0)
    async def refund(ctx: stepfold.Context) -> dict[str, Any]:
        amount = ctx.event.data["amount"]
        return await ctx.step.run("pay back", body("pay back", {"amount": amount, "pin": 1234}))

    @app.function("fulfil", on="shop/order")
    async def fulfil(ctx: stepfold.Context) -> dict[str, Any]:
        order = ctx.event.data["order"]
        payment = await ctx.step.run("charge", body("charge", {"id": f"pay-{order}", "token": "t"}))
        await ctx.step.sleep("cool off", "1h")
        packed = await ctx.step.wait_for_event(
            "packed", event="shop/packed", timeout="1d", match="data.order"
        )
        if packed is None:
            back = await ctx.step.invoke("refund", function=refund, data={"amount": 5})
            return {"state": "refunded", "amount": back["amount"]}
        return {"state": "shipped", "payment": payment["id"], "shelf": packed.data["shelf"]}

    return app


def shipped(s: Scenario, order: int = 7) -> RunRecord:
    run = s.start_run("shop/order", {"order": order, "card": {"number": "4111"}})
    s.advance(3_700)
    s.send("shop/packed", {"order": order, "shelf": 3, "password": "x"})
    return s.ended(run)


def refunded(s: Scenario) -> RunRecord:
    return s.ended(s.start_run("shop/order", {"order": 9}))


def exported(folder: Path, run: bytes, *, related: bool = False) -> list[ExportedRun]:
    """Read a run out of the log of a scenario that is closed, or goes on."""
    journals = FolderJournals(folder / "log")
    try:
        return asyncio.run(find_run(journals, run, related=related))
    finally:
        journals.close()


def history(app: stepfold.App, folder: Path, play: Any) -> ExportedRun:
    """Have a run played on an engine in a folder; return it as it is exported."""
    with scenario(EMBEDDED, app, folder) as s:
        run = play(s)
    return exported(folder, run.id)[0]
