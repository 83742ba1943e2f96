"""Traces, if the environment asks for them and OpenTelemetry is installed (the extra ``otel``)."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from stepfold_engine.node import Node

try:
    from stepfold_engine import tracing
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    tracing = None  # type: ignore[assignment]  # the module, or none

_log = logging.getLogger("stepfold")

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@asynccontextmanager
async def traced(node: Node) -> AsyncGenerator[None]:
    """Trace what a node does while the block runs, if one of ``VARIABLES`` says where to."""
    if not any(os.environ.get(name) for name in VARIABLES):
        yield
        return
    if tracing is None:
        _log.warning("traces need OpenTelemetry: pip install 'stepfold[engine,otel]'")
        yield
        return
    watcher = tracing.Tracing(tracing.exporting())
    node.watchers.append(watcher)
    try:
        yield
    finally:
        await asyncio.to_thread(watcher.close)
