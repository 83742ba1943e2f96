"""The process that chaos on Kafka kills: engine, app and HTTP API, as ``stepfold run`` has them.

Usage: ``python -m tests.chaos_kafka.program ORDERS``, JSON as ``SharedOrders`` has it. When it
serves it prints ``ready`` and its port. SIGTERM ends it cleanly.
"""

import asyncio
import json
import logging
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stepfold_engine.errors import LogError
from stepfold_engine.history import NoHistory
from stepfold_engine.kafka.properties import properties_of
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.node import Node
from stepfold_engine.settings import Settings
from stepfold_engine.shared import Observing, sharing_app
from stepfold_engine.wire.api import build_app
from stepfold_engine.wire.live import LiveFeed
from stepfold_engine.wire.replies import json_reply
from stepfold_engine.wire.server import listen, serving
from tests.chaos.features import make_app
from tests.chaos.outside import Ledger, Witness
from tests.chaos.program import Orders, idle

NO_LOG = 7
"""The code of a process that ends because the log says so."""


@dataclass(frozen=True, slots=True)
class SharedOrders(Orders):
    """What a process is told.

    Attributes:
        servers: the broker.
        word: the namespace, and the prefix of the events' topic.
        name: of the process, if it is to keep its partitions while it restarts.
        properties: of the client.
    """

    servers: str = ""
    word: str = ""
    name: str = ""
    properties: dict[str, str] = field(default_factory=dict[str, str])


async def idle_here(node: Node) -> dict[str, Any]:
    """Say which partitions are here, and what is left to do in them."""
    owned = sorted(node.owners)
    found = await idle(node)
    found["left"] = [why for why in found["left"] if not why.endswith("is not owned")]
    return found | {"owned": owned}


async def serve(orders: SharedOrders) -> None:
    """Run the engine until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    outside = Path(orders.outside)
    app = make_app(Ledger(outside, orders.life, synced=orders.synced))
    properties = properties_of({"bootstrap.servers": orders.servers}, orders.properties)
    names = TopicNames(orders.word, orders.word)
    settings = Settings(**orders.settings)
    observing = Observing([Witness(outside, orders.life)])
    async with sharing_app(
        app, properties, names, node_name=orders.name, settings=settings, observing=observing
    ) as node:
        api = build_app(node, NoHistory(), LiveFeed())

        async def answer_idle(_: Request) -> Response:
            return json_reply(await idle_here(node))

        api.add_route("/chaos/idle", answer_idle)
        sockets = listen("127.0.0.1", 0)
        async with serving(api, sockets):
            print("ready", sockets[0].getsockname()[1], flush=True)
            await stop.wait()
    print("ended", flush=True)


def main() -> int:
    """Do as the command line says."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("stepfold").setLevel(logging.INFO)
    orders = SharedOrders(**json.loads(sys.argv[1]))
    try:
        asyncio.run(serve(orders))
    except LogError as error:
        print(f"ended: {error}", file=sys.stderr)
        return NO_LOG
    return 0


if __name__ == "__main__":
    sys.exit(main())
