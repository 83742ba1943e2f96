"""Functions over HTTP: those in force, when their crons come due, what their debounces hold."""

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepfold_engine.core.partition import Partition, keyed
from stepfold_engine.node import Node
from stepfold_engine.wire.replies import data_reply
from stepfold_schemas.entries import Debounce, EventDebounced, FunctionSpec
from stepfold_schemas.ids import partition_of

PENDING_MAX = 100
"""How many events that debounces hold are listed for each function; all are counted."""


class Functions:
    """Serves what a node knows of functions: that of its own partitions."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def routes(self, under: str) -> Sequence[Route]:
        """Return the routes under this path."""
        return (Route(f"{under}/functions", self.list),)

    async def list(self, _: Request) -> Response:
        """``GET /stepfold/v1/functions``: by id.

        Of a cron whose home is another process's partition ``next_ms`` is 0.
        """
        states = {state.number: state for state in self._node.states()}
        specs = {spec.id: spec for state in states.values() for spec in state.functions.values()}
        count = self._node.partitions
        return data_reply([_row(specs[id_], states, count) for id_ in sorted(specs)])


def _row(spec: FunctionSpec, states: Mapping[int, Partition], count: int) -> dict[str, object]:
    row: dict[str, object] = {
        "id": spec.id,
        "name": spec.name,
        "version": spec.version,
        "triggers": [{"event": t.event, "expression": t.expression} for t in spec.triggers],
        "crons": [_cron(spec, cron, states, count) for cron in spec.crons],
    }
    held = [h for s in states.values() for h in s.debounces.values() if h.function == spec.id]
    if spec.debounce is not None or held:
        row["debounce"] = _debounce(spec, sorted(held, key=lambda one: one.due_ms))
    return row


def _cron(
    spec: FunctionSpec, cron: str, states: Mapping[int, Partition], count: int
) -> dict[str, object]:
    name = keyed(spec.id, cron)
    home = partition_of(name, count)
    scheduled = states[home].crons.get(name) if home in states else None
    due_ms = 0 if scheduled is None else scheduled.due_ms
    return {"cron": cron, "partition": home, "next_ms": due_ms}


def _debounce(spec: FunctionSpec, held: Sequence[EventDebounced]) -> dict[str, object]:
    option = spec.debounce or Debounce(0)
    listed = [
        {"key": h.key, "event_id": h.event_id, "first_ms": h.first_ms, "due_ms": h.due_ms}
        for h in held[:PENDING_MAX]
    ]
    return {
        "period_ms": option.period_ms,
        "key": option.key,
        "timeout_ms": option.timeout_ms,
        "pending": len(held),
        "next": listed,
    }
