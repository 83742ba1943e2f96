"""The process that chaos kills: engine, app, HTTP API and history, as ``stepfold dev`` has them.

Usage: ``python -m tests.chaos.program ORDERS``, JSON as ``Orders`` has it. When it serves it prints
``ready`` and its port. SIGTERM ends it cleanly.
"""

import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stepfold_engine.effects import Watcher
from stepfold_engine.history import History
from stepfold_engine.local import running_app
from stepfold_engine.log import tables
from stepfold_engine.log.base import EVENTS, INBOX
from stepfold_engine.node import Node
from stepfold_engine.settings import Settings
from stepfold_engine.wire.api import build_app
from stepfold_engine.wire.live import LiveFeed
from stepfold_engine.wire.replies import json_reply
from stepfold_engine.wire.server import listen, serving
from tests.chaos.features import make_app
from tests.chaos.outside import Ledger, Witness
from tests.chaos.vitals import Vitals


@dataclass(frozen=True, slots=True)
class Orders:
    """What a process is told.

    Attributes:
        log: the folder of its log.
        outside: the folder of what it leaves outside.
        life: its number.
        partitions: of a new log.
        settings: of the engine.
        careless: the log does not sync; to see that losses are found.
        witnessed: write down what is confirmed.
        synced: sync the ledger.
        noted: the steps that the ledger has; none for all.
        trace: keep the places of allocations, for ``/chaos/growth``.
    """

    log: str
    outside: str
    life: int
    partitions: int = 2
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    careless: bool = False
    witnessed: bool = True
    synced: bool = True
    noted: list[str] = field(default_factory=list[str])
    trace: bool = False

    def text(self) -> str:
        """Return what the command line takes."""
        return json.dumps(asdict(self))


async def idle(node: Node) -> dict[str, Any]:
    """Say whether there is anything left to do, and what; state that is not confirmed is left."""
    ends = await ends_of(node)
    left: list[str] = [f"partition {n}: {why}" for n, why in node.stopped_partitions.items()]
    runs = 0
    for number in range(node.partitions):
        owner = node.owners.get(number)
        if owner is None:
            left.append(f"partition {number} is not owned")
            continue
        runs += len(owner.state.runs)
        if any(owner.state.unsent.values()):
            left.append(f"partition {number} has unsent messages")
        if owner.confirmed_seq < owner.state.seq:
            left.append(f"partition {number} has unconfirmed decisions")
        for (topic, partition), end in ends.items():
            meant = topic == EVENTS or partition == number
            if meant and owner.position(topic, partition) < end:
                left.append(f"partition {number} has not read {topic}/{partition}")
    if await ends_of(node) != ends:
        left.append("something was appended meanwhile")
    return {"runs": runs, "left": left, "stopped": node.stopped_partitions}


async def ends_of(node: Node) -> dict[tuple[str, int], int]:
    """Return where the inputs of all partitions end."""
    inputs = [(EVENTS, n) for n in range(await node.log.partitions(EVENTS))]
    inputs += [(INBOX, n) for n in range(node.partitions)]
    return {(t, n): (await node.log.bounds(t, n)).end for t, n in inputs}


def be_careless() -> None:
    """Let SQLite say that data is safe when it is not."""
    connect = tables.connect

    def careless(path: Path) -> sqlite3.Connection:
        db = connect(path)
        db.execute("PRAGMA synchronous=OFF")
        return db

    tables.connect = careless


async def serve(orders: Orders) -> None:
    """Run the engine until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    folder, outside = Path(orders.log), Path(orders.outside)
    ledger = Ledger(outside, orders.life, synced=orders.synced, noted=orders.noted)
    app = make_app(ledger)
    vitals = Vitals(folder, trace=orders.trace)
    watchers: list[Watcher] = [
        vitals,
        *([Witness(outside, orders.life)] if orders.witnessed else []),
    ]
    settings = Settings(**orders.settings)
    running = running_app(
        app, folder, partitions=orders.partitions, settings=settings, watchers=watchers
    )
    async with running as node:
        history = History(node, folder / "history.db")
        live = LiveFeed()
        node.watchers.append(live)
        async with history.running():
            api = build_app(node, history, live)

            async def answer_idle(_: Request) -> Response:
                return json_reply(await idle(node))

            async def answer_vitals(_: Request) -> Response:
                return json_reply(await vitals.measured(node))

            async def answer_growth(_: Request) -> Response:
                return json_reply(vitals.growth())

            api.add_route("/chaos/idle", answer_idle)
            api.add_route("/chaos/vitals", answer_vitals)
            api.add_route("/chaos/growth", answer_growth)
            sockets = listen("127.0.0.1", 0)
            async with serving(api, sockets):
                print("ready", sockets[0].getsockname()[1], flush=True)
                await stop.wait()
    print("ended", flush=True)


def main() -> None:
    """Do as the command line says."""
    orders = Orders(**json.loads(sys.argv[1]))
    if orders.careless:
        be_careless()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(orders))


if __name__ == "__main__":
    main()
