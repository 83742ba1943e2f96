"""What a partition decides of messages that overtake each other on their way."""

import stepfold
from stepfold_engine.core.decide.messages import message_arrived
from stepfold_engine.core.inputs import MessageArrived
from stepfold_engine.core.partition import Partition
from stepfold_engine.matching import CelMatching
from stepfold_schemas import codec
from stepfold_schemas.entries import Entry, FunctionSpec, RunStarted
from stepfold_schemas.events import Event
from stepfold_schemas.ids import run_key
from stepfold_schemas.messages import RunRequested


def declared() -> FunctionSpec:
    app = stepfold.App("t")

    @app.function("f", on="t/go", idempotency="event.data.order", retries=7)
    async def f(ctx: stepfold.Context) -> None:
        return None

    return app.functions["t-f"].spec()


def arrive(state: Partition, message: RunRequested) -> list[Entry]:
    arrived = MessageArrived(1, 1, b"", message)
    return message_arrived(state, arrived, CelMatching(), 1_800_000_000_000)


def test_a_run_is_started_although_its_functions_declaration_comes_later() -> None:
    """It is another partition that tells of the declaration, and its sender may be slower."""
    spec, event = declared(), codec.encode(Event("t/go", b'{"order": 1}', "e1"))
    key = run_key(0, spec.id, "key 1")
    entries = arrive(Partition(0, 2), RunRequested(spec.id, key, "key 1", [event], 0, spec=spec))
    (started,) = [entry for entry in entries if isinstance(entry, RunStarted)]
    assert (started.function, started.retry.retries) == ("t-f", 7)


def test_a_run_of_a_function_that_nobody_knows_is_not_started() -> None:
    event = codec.encode(Event("t/go", b"{}", "e1"))
    entries = arrive(Partition(0, 2), RunRequested("t-f", run_key(0, "t-f", "x"), "x", [event], 0))
    assert not [entry for entry in entries if isinstance(entry, RunStarted)]
