"""``GET /metrics``, if Prometheus' client is installed (the extra ``metrics``)."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepfold_engine.effects import Watcher
from stepfold_engine.log.base import Log
from stepfold_engine.node import Node
from stepfold_engine.wire.replies import error_reply

try:
    from stepfold_engine import metrics
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    metrics = None  # type: ignore[assignment]  # the module, or none

MISSING = "metrics need Prometheus' client: pip install 'stepfold[engine,metrics]'"


class Scraping:
    """Measures a node, and serves what it measured."""

    def __init__(self) -> None:
        self._metrics = metrics.Metrics() if metrics is not None else None

    def measured(self, log: Log) -> Log:
        """Return this log, with every append timed if metrics are kept."""
        return log if self._metrics is None else self._metrics.measured(log)

    @property
    def watchers(self) -> Sequence[Watcher]:
        """What is to see confirmed decisions."""
        return () if self._metrics is None else (self._metrics,)

    def route(self, node: Node) -> Route:
        """Return the route for this node."""

        async def answer(_: Request) -> Response:
            if self._metrics is None or metrics is None:
                return error_reply(501, MISSING)
            text = await self._metrics.text(node)
            return Response(text, headers={"content-type": metrics.CONTENT_TYPE})

        return Route("/metrics", answer)
