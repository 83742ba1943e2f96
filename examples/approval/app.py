"""A trip with compensations and a person's decision: approved, rejected, or escalated."""

import stepfold

app = stepfold.App("travel")
booked: list[str] = []


def book(what: str) -> str:
    booked.append(what)
    return f"{what} booked"


def cancel(what: str) -> None:
    booked.remove(what)


@app.function("book-trip", on="trip/asked", idempotency="data.trip_id")
async def book_trip(ctx: stepfold.Context) -> str:
    trip_id = ctx.event.data["trip_id"]
    undo: list[str] = []
    for what in ("hotel", "flight"):
        await ctx.step.run(f"book {what}", book, f"{what} {trip_id}")
        undo.append(f"{what} {trip_id}")
    decision = await ctx.step.wait_for_signal("decision", signal=f"trip/{trip_id}", timeout="72h")
    if decision is not None and decision.data == "yes":
        return "approved"
    for what in reversed(undo):
        await ctx.step.run("undo", cancel, what)
    if decision is None:
        await ctx.step.send_event("escalate", {"name": "trip/silent", "data": {"trip_id": trip_id}})
        return "escalated"
    return "rejected"
