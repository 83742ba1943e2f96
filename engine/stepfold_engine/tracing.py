"""OpenTelemetry traces: a run is a trace, what it did are its spans.

Needs the extra ``otel``. Ids follow from the run's (a trace's id is the run's id), so whichever
process confirms a decision can write the span that it ends, also after a crash or a takeover; and
the id that people see in stepfold is the one to look for in their tracing tool. Spans are written
when they end. Where they go is said by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_…``,
``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``).
"""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision as Decided
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from stepfold_engine.core.ending import ENDS
from stepfold_engine.core.run import Run
from stepfold_engine.owner import Owner
from stepfold_engine.spans import span_id
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    Error,
    EventMatched,
    HistoryRestated,
    InvokeBegan,
    InvokeCompleted,
    InvokeFailed,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    SignalReceived,
    SignalWaitBegan,
    SignalWaitEnded,
    SleepBegan,
    SleepEnded,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    WaitBegan,
    WaitTimedOut,
)
from stepfold_schemas.ids import key_of, ulid_text

BEGUN_MAX = 100_000
"""How many sleeps and waits are remembered until they end; the span of an older one is a point."""

_SCOPE = InstrumentationScope("stepfold")
_BEGINNINGS = (SleepBegan, WaitBegan, SignalWaitBegan, InvokeBegan)
_NAMES: Mapping[type[Entry], str] = {
    SleepBegan: "sleep",
    WaitBegan: "wait for event",
    SignalWaitBegan: "wait for signal",
    InvokeBegan: "invoke",
}
_K = TypeVar("_K")
_V = TypeVar("_V")
_Begun = tuple[str, str, int]
"""What began: its kind, its name, and when."""

_About = dict[str, str | int | bool]
_STATUSES: Mapping[type[Entry], str] = {
    RunCompleted: "completed",
    RunFailed: "failed",
    RunCancelled: "cancelled",
}


@dataclass(frozen=True, slots=True)
class _Span:
    """A span of a run: ``salt`` tells it from the run's others; the run's own has none."""

    run: bytes
    salt: bytes
    name: str
    begun_ms: int
    ended_ms: int
    about: _About
    error: Error | None


def exporting() -> SpanProcessor:
    """Return what sends spans where OpenTelemetry's variables say."""
    return BatchSpanProcessor(OTLPSpanExporter())


class Tracing:
    """Writes a span for everything that ends (``effects.Watcher``).

    Args:
        processor: where spans go.
        ratio: the share of runs that are traced.
    """

    def __init__(self, processor: SpanProcessor, ratio: float | None = None) -> None:
        self._processor = processor
        self._resource = Resource.create()
        self._sampler = TraceIdRatioBased(_ratio() if ratio is None else ratio)
        self._begun: OrderedDict[tuple[bytes, bytes], _Begun] = OrderedDict()
        self._links: OrderedDict[bytes, list[Link]] = OrderedDict()

    def close(self) -> None:
        """Send what waits to be sent."""
        self._processor.shutdown()

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a decision (``effects.Watcher``)."""
        if any(isinstance(entry, HistoryRestated) for entry in decision.entries):
            return  # a history that is copied is no news
        for entry in decision.entries:
            self._see(owner, entry, decision.at_ms)

    def _see(self, owner: Owner, entry: Entry, at_ms: int) -> None:  # noqa: C901 - a case each
        match entry:
            case RunStarted():
                self._remember_links(entry)
            case StepCompleted():
                self._step(owner, entry, at_ms, None)
            case StepFailed() | StepAttemptFailed():
                self._step(owner, entry, at_ms, entry.error)
            case SleepBegan() | WaitBegan() | SignalWaitBegan() | InvokeBegan():
                begun = (_NAMES[type(entry)], entry.name, at_ms)
                _keep(self._begun, (entry.run, entry.step), begun)
            case SleepEnded() | SignalReceived() | InvokeCompleted():
                self._ended(owner, entry.run, entry.step, at_ms)
            case WaitTimedOut() | SignalWaitEnded():
                self._ended(owner, entry.run, entry.step, at_ms, timed_out=True)
            case InvokeFailed():
                self._ended(owner, entry.run, entry.step, at_ms, error=entry.error)
            case EventMatched():
                for wait in entry.waits:
                    self._ended(owner, wait.run, wait.step, at_ms)
            case _ if isinstance(entry, ENDS):
                self._run(owner, entry, at_ms)
            case _:
                pass

    # Spans.

    def _step(
        self,
        owner: Owner,
        entry: StepCompleted | StepFailed | StepAttemptFailed,
        at_ms: int,
        error: Error | None,
    ) -> None:
        about: _About = {"stepfold.step": entry.name, "stepfold.attempt": entry.attempt}
        salt = entry.step + entry.attempt.to_bytes(4, "big")
        begun_ms = entry.started_ms or at_ms
        self._write(owner, _Span(entry.run, salt, entry.name, begun_ms, at_ms, about, error))

    def _ended(
        self,
        owner: Owner,
        run: bytes,
        step: bytes,
        at_ms: int,
        *,
        error: Error | None = None,
        timed_out: bool = False,
    ) -> None:
        kind, name, begun_ms = self._begun.pop((run, step), ("", "", at_ms))
        about: _About = {"stepfold.step": name}
        if timed_out:
            about["stepfold.timed_out"] = True
        title = f"{kind} {name}".strip() or "wait"
        self._write(owner, _Span(run, step, title, begun_ms, at_ms, about, error))

    def _run(self, owner: Owner, entry: Entry, at_ms: int) -> None:
        assert isinstance(entry, RunCompleted | RunFailed | RunCancelled), "one of the ends"
        known = _known(owner, entry.run)
        begun_ms, name = (known.started_ms, known.function) if known else (at_ms, "run")
        about: _About = {"stepfold.status": _STATUSES[type(entry)]}
        error = entry.error if isinstance(entry, RunFailed) else None
        self._write(owner, _Span(entry.run, b"", name, begun_ms, at_ms, about, error))

    def _write(self, owner: Owner, span: "_Span") -> None:
        if not self._samples(span.run):
            return
        known = _known(owner, span.run)
        about: _About = {"stepfold.run": ulid_text(span.run), **span.about}
        if known is not None:
            about["stepfold.function"] = known.function
            about["stepfold.version"] = known.version
        written = ReadableSpan(
            name=span.name,
            context=_context(span.run, span.salt),
            parent=_context(span.run, b"") if span.salt else None,
            resource=self._resource,
            attributes=about,
            events=_exception(span.error, span.ended_ms),
            links=() if span.salt else self._links.pop(span.run, []),
            kind=SpanKind.INTERNAL if span.salt else SpanKind.CONSUMER,
            status=_status(span.error),
            start_time=min(span.begun_ms, span.ended_ms) * 1_000_000,
            end_time=span.ended_ms * 1_000_000,
            instrumentation_scope=_SCOPE,
        )
        self._processor.on_end(written)

    def _samples(self, run: bytes) -> bool:
        result = self._sampler.should_sample(None, int.from_bytes(run), "run")
        return result.decision is Decided.RECORD_AND_SAMPLE

    # What a run follows from.

    def _remember_links(self, entry: RunStarted) -> None:
        links: list[Link] = []
        if entry.invoker is not None:
            # The span of the step that invoked it.
            links.append(Link(_context(entry.invoker.run, entry.invoker.step)))
        links += [link for event in entry.events if (link := _link_of(event)) is not None]
        if links and self._samples(entry.run):
            _keep(self._links, entry.run, links)


def _link_of(raw: bytes) -> Link | None:
    """Return a link to the trace that an event came from (W3C ``traceparent``), if it says one."""
    user = cast("Mapping[str, object]", json.loads(codec.decode_event(raw).user))
    said = cast("Mapping[str, object]", user.get("cloudevent") or {})
    parent = said.get("traceparent")
    if not isinstance(parent, str):
        return None
    context = TraceContextTextMapPropagator().extract({"traceparent": parent})
    found = get_current_span(context).get_span_context()
    return Link(found) if found.is_valid else None


def _keep(kept: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    kept[key] = value
    if len(kept) > BEGUN_MAX:
        kept.popitem(last=False)


def _known(owner: Owner, run: bytes) -> Run | None:
    return owner.ended.get(run) or owner.state.runs.get(key_of(run))


def _context(run: bytes, salt: bytes) -> SpanContext:
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int.from_bytes(run), span_id(run, salt), False, sampled)


def _exception(error: Error | None, at_ms: int) -> Sequence[SpanEvent]:
    if error is None:
        return ()
    about = {
        "exception.type": error.name,
        "exception.message": error.message,
        "exception.stacktrace": error.stack,
    }
    return (SpanEvent("exception", about, at_ms * 1_000_000),)


def _status(error: Error | None) -> Status:
    if error is None:
        return Status(StatusCode.UNSET)
    return Status(StatusCode.ERROR, f"{error.name}: {error.message}")


def _ratio() -> float:
    if not os.environ.get("OTEL_TRACES_SAMPLER", "").endswith("traceidratio"):
        return 1.0
    return float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))
