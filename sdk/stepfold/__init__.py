"""Durable functions on a log.

A function is ordinary Python, cut into steps. The outcome of every step is recorded before the
function goes on; after a crash, a deploy or a month of sleep it goes on from there.

    import stepfold

    app = stepfold.App("shop")

    @app.function("fulfil-order", on="shop/order.created")
    async def fulfil_order(ctx: stepfold.Context) -> str:
        receipt = await ctx.step.run("charge", charge, ctx.event.data["order_id"])
        await ctx.step.sleep("cool-off", "1h")
        await ctx.step.run("ship", ship, receipt)
        return receipt

What there is::

    App                   a set of functions; app.function(…), app.send(…)
    ├── Function          a durable function; .on_failure(…)
    ├── Trigger, CancelOn, Debounce, Retry
    │                     its options
    Context, SyncContext  what a function is given: event, step, logger, now(), uuid(), random()
    ├── Step, SyncStep    run, sleep, sleep_until, wait_for_event, wait_for_signal, invoke, …
    ├── Event, Signal     what a function gets
    step, step_info       the body of a step: its policy, and what it may know of itself
    Client, NewEvent      for programs outside: send events, ask about runs
    query, QueryResult    questions in SQL about what ran
    StepError             and the other errors; see stepfold.errors
"""

from stepfold.app import App
from stepfold.client import Client
from stepfold.context import Context, Signal, Step
from stepfold.errors import (
    ClientError,
    InvokeTimeoutError,
    NonRetriableError,
    RetryAfterError,
    SignalConflictError,
    StepError,
)
from stepfold.events import Event, NewEvent
from stepfold.function import Function
from stepfold.options import CancelOn, Debounce, Retry, Trigger
from stepfold.query import QueryResult, query
from stepfold.steps import StepInfo, step, step_info
from stepfold.sync import SyncContext, SyncStep

__all__ = [
    "App",
    "CancelOn",
    "Client",
    "ClientError",
    "Context",
    "Debounce",
    "Event",
    "Function",
    "InvokeTimeoutError",
    "NewEvent",
    "NonRetriableError",
    "QueryResult",
    "Retry",
    "RetryAfterError",
    "Signal",
    "SignalConflictError",
    "Step",
    "StepError",
    "StepInfo",
    "SyncContext",
    "SyncStep",
    "Trigger",
    "query",
    "step",
    "step_info",
]
