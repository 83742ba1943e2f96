"""OpenTelemetry: a run is a trace, whatever process writes its spans."""

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode

import stepfold
from stepfold_engine.log.base import NewRecord
from stepfold_engine.tracing import Tracing
from tests.behaviour.conftest import On
from tests.behaviour.scenario import EPOCH_MS, Scenario, scenario

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def app() -> stepfold.App:
    app = stepfold.App("t")
    tried: list[int] = []

    def flaky() -> str:
        tried.append(1)
        if len(tried) < 2:
            raise OSError("the bank is closed")
        return "charged"

    @app.function("child")
    async def child(ctx: stepfold.Context) -> int:
        return 7

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.run("charge", flaky)
        await ctx.step.sleep("nap", "3d")
        await ctx.step.invoke("ask", function=child, data={})
        await ctx.step.wait_for_event("never", event="t/never", timeout="1h")
        raise stepfold.NonRetriableError("no reason")

    return app


def traced(s: Scenario, ratio: float = 1.0) -> InMemorySpanExporter:
    found = InMemorySpanExporter()
    s.node.watchers.append(Tracing(SimpleSpanProcessor(found), ratio))
    return found


def place(span: ReadableSpan) -> SpanContext:
    assert span.context is not None
    return span.context


def milliseconds(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time // 10**6 - EPOCH_MS, span.end_time // 10**6 - EPOCH_MS


def test_a_run_is_one_trace_also_over_a_restart(app: stepfold.App, tmp_path: Path, on: On) -> None:
    with scenario(on(2), app, tmp_path) as s:
        before = traced(s)
        run = s.start_run("t/go")
        s.advance(60)
        s.restart()
        after = traced(s)
        s.ended(run)
        s.advance(1)
        spans = [*before.get_finished_spans(), *after.get_finished_spans()]
        mine = [span for span in spans if place(span).trace_id == int.from_bytes(run.id)]
        names = [span.name for span in mine]
        assert names == ["charge", "charge", "wait", "invoke ask", "wait for event never", "t-f"]
        failed, charged, _, asked, never, whole = mine
        assert all(s.parent == place(whole) for s in mine[:-1])
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.events[0].attributes is not None
        assert failed.events[0].attributes["exception.message"] == "the bank is closed"
        assert charged.attributes is not None
        assert charged.attributes["stepfold.attempt"] == 2
        assert never.attributes is not None
        assert never.attributes["stepfold.timed_out"] is True
        begun_ms, ended_ms = milliseconds(never)
        assert ended_ms - begun_ms == 3_600_000
        assert whole.attributes is not None
        assert whole.attributes["stepfold.status"] == "failed"
        assert whole.attributes["stepfold.run"] == run.text
        assert whole.status.description == "NonRetriableError: no reason"
        assert milliseconds(whole) == (run.started_ms, run.ended_ms)
        (child,) = [span for span in spans if span.name == "t-child"]
        assert [link.context.span_id for link in child.links] == [place(asked).span_id]


def test_a_run_is_linked_to_the_trace_of_its_event(
    app: stepfold.App, tmp_path: Path, on: On
) -> None:
    with scenario(on(1), app, tmp_path) as s:
        found = traced(s)
        said = {"specversion": "1.0", "type": "t/go", "source": "s", "id": "1"}
        headers = [(f"ce_{k}", v.encode()) for k, v in (said | {"traceparent": PARENT}).items()]
        s.do(s.log.append("events", 0, [NewRecord(b"{}", b"", tuple(headers))]))
        s.until(lambda: s.of("f") and s.of("f")[0].end)
        s.advance(1)
        (whole,) = [span for span in found.get_finished_spans() if span.name == "t-f"]
        assert [f"{link.context.trace_id:032x}" for link in whole.links] == [PARENT[3:35]]


def test_nothing_is_traced_that_is_not_sampled(app: stepfold.App, tmp_path: Path, on: On) -> None:
    with scenario(on(1), app, tmp_path) as s:
        found = traced(s, 0.0)
        s.run("t/go")
        assert not found.get_finished_spans()
