"""The HTTP interface and the index of runs, on a real node, a real server and a loopback port."""

import asyncio
import contextlib
import json
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepfold.port import EnginePort, Fact, RunBrief
from stepfold_engine.clock import SystemClock
from stepfold_engine.errors import LogFullError
from stepfold_engine.history import History
from stepfold_engine.log.base import EVENTS, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.matching import CelMatching
from stepfold_engine.node import Node
from stepfold_engine.settings import Settings
from stepfold_engine.wire.api import build_app
from stepfold_engine.wire.ingest import parse_seed, seeded_id
from stepfold_engine.wire.live import LiveFeed
from stepfold_engine.wire.server import listen, serving
from stepfold_schemas.entries import (
    Debounce,
    EventMatched,
    FunctionSpec,
    SignalReceived,
    StepCompleted,
    Trigger,
)
from stepfold_schemas.ids import step_key
from stepfold_schemas.reports import (
    AskSignal,
    AskWait,
    AttemptSucceeded,
    ReportItem,
    RunDiverged,
    RunIdle,
    RunReturned,
)

DEADLINE_S = 15.0
PING, WAITS, SIGNALS, DIVERGES = "shop-ping", "shop-waits", "shop-signals", "shop-diverges"
LATER = "shop-later"
HOUR_MS = 3_600_000
FUNCTIONS = [
    FunctionSpec(PING, "ping", "1", "x", [Trigger("shop/ping")], crons=["TZ=Asia/Tokyo 0 9 1 1 *"]),
    FunctionSpec(WAITS, "waits", "1", "x", [Trigger("shop/wait")]),
    FunctionSpec(SIGNALS, "signals", "1", "x", [Trigger("shop/signal")]),
    FunctionSpec(DIVERGES, "diverges", "1", "x", [Trigger("shop/diverge")]),
    FunctionSpec(
        LATER,
        "later",
        "1",
        "x",
        [Trigger("shop/later")],
        debounce=Debounce(HOUR_MS, "event.data.k"),
    ),
]


class Scripted:
    """A worker whose functions are a step and then, by their name, an end or a wait."""

    def __init__(self, port: EnginePort) -> None:
        self._port = port
        self._briefs: dict[bytes, RunBrief] = {}

    def start(self, brief: RunBrief, history: Sequence[Fact]) -> None:
        self._briefs[brief.run] = brief
        done = any(isinstance(fact.entry, StepCompleted) for fact in history)
        if done:
            self.deliver(brief.run, history)
        else:
            self._report(brief.run, AttemptSucceeded(step_key("one"), "one", 1, 0, b"1"))

    def deliver(self, run: bytes, facts: Sequence[Fact]) -> None:
        for fact in facts:
            match fact.entry:
                case StepCompleted():
                    self._go_on(run, fact.seq)
                case EventMatched() | SignalReceived():
                    self._report(run, RunReturned(b'{"done":true}'))
                case _:
                    pass

    def _go_on(self, run: bytes, seq: int) -> None:
        match self._briefs[run].function:
            case name if name == PING:
                self._report(run, RunReturned(b'"pong"'))
            case name if name == WAITS:
                wait = AskWait(step_key("w"), "w", "shop/go", "", "", {}, 3_600_000, 0)
                self._report(run, wait, RunIdle(seq))
            case name if name == SIGNALS:
                ask = AskSignal(step_key("s"), "s", "approval", 3_600_000, "fail")
                self._report(run, ask, RunIdle(seq))
            case _:
                self._report(run, RunDiverged(b'{"reason":"diverged","message":"changed"}'))

    def retry(self, run: bytes, step: bytes, attempt: int) -> None:
        raise AssertionError(f"nothing fails here: {run!r} {step!r} {attempt}")

    def leave(self, run: bytes) -> None:
        pass

    def stop(self, run: bytes) -> None:
        self._briefs.pop(run, None)

    def _report(self, run: bytes, *items: ReportItem) -> None:
        self._port.report(run, self._briefs[run].session, list(items))


class FullLog(MemoryLog):
    """A log whose disk may be full for events."""

    full = False

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        if self.full and topic == EVENTS:
            raise LogFullError("the disk is full: make room in /data")
        return await super().append(topic, partition, records)


@dataclass
class Here:
    """A running engine and how to talk to it."""

    base: str
    node: Node
    history: History

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any]:
        data = (
            body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        )
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        request = urllib.request.Request(self.base + path, data, names, method=method)

        def send() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        status, found = await asyncio.to_thread(send)
        return status, json.loads(found) if found else None

    async def send(self, *events: Mapping[str, object]) -> list[str]:
        status, body = await self.ask("POST", "/e/key", list(events))
        assert status == 200, body
        ids: list[str] = body["ids"]
        return ids

    async def run_of(self, event: str, status: str = "") -> dict[str, Any]:
        """Poll until the event's run is there and, if given, has this status in our words."""

        async def look() -> dict[str, Any] | None:
            code, body = await self.ask("GET", f"/v1/events/{event}/runs")
            if code == 503 or not body["data"]:  # the index is being made
                return None
            code, found = await self.ask("GET", f"/stepfold/v1/runs/{body['data'][0]['run_id']}")
            if code == 503:  # it is made anew in between
                return None
            run: dict[str, Any] = found["data"]
            return run if status in ("", run["status"]) else None

        found: dict[str, Any] = await until(look)
        return found


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := await look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def engine(log: MemoryLog, folder: Path, keys: Sequence[str] = ()) -> AsyncGenerator[Here]:
    clock = SystemClock()
    node = Node(log, clock, CelMatching(), Settings())
    live = LiveFeed()
    node.watchers.append(live)
    history = History(node, folder / "history.db")
    async with node.running(Scripted), history.running():
        node.native.serves = lambda _function, _version: True
        await node.declare("shop", FUNCTIONS, complete=True, forced=True)
        node.resume()
        sockets = listen("127.0.0.1", 0)
        base = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        async with serving(build_app(node, history, live, keys), sockets):
            yield Here(base, node, history)
            live.close()


def memory_log(partitions: int = 2) -> FullLog:
    return FullLog(partitions, SystemClock().now_ms)


def trial(
    tmp_path: Path, test: Callable[[Here], Awaitable[None]], keys: Sequence[str] = ()
) -> None:
    async def whole() -> None:
        async with asyncio.timeout(60), engine(memory_log(), tmp_path, keys) as here:
            await test(here)

    asyncio.run(whole())


def test_a_seed_gives_the_ids_of_the_protocol() -> None:
    seed = parse_seed("1756000000000,AAECAwQFBgcICQ==")
    assert seed is not None
    assert [seeded_id(seed, i) for i in (1, 2)] == [
        "01K3CW3600000G40R40M30E20A",
        "01K3CW3600000G40R40M30E20B",
    ]


@pytest.mark.parametrize(
    "text", ["", "x", "0,AAECAwQFBgcICQ==", "-1,AAECAwQFBgcICQ==", "1,AAEC", "1,*"]
)
def test_a_seed_that_does_not_parse_is_ignored(text: str) -> None:
    assert parse_seed(text) is None


def test_an_event_is_normalised(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        before = int(time.time() * 1000) - 1
        (event,) = await here.send(
            {"NAME": "shop/other", "Data": {"_inngest": 1, "a": 2}, "user": None, "ts": 0, "x": 1}
        )
        status, body = await here.ask("GET", f"/v1/events/{event}")
        row = body["data"]
        assert (status, row["name"], row["data"], row["user"]) == (200, "shop/other", {"a": 2}, {})
        assert row["id"] == row["internal_id"] == event
        assert before <= row["ts"] <= time.time() * 1000 + 1
        (own,) = await here.send({"name": "shop/other", "id": "mine", "ts": 1_756_000_000_000})
        _, body = await here.ask("GET", f"/v1/events/{own.lower()}")
        assert (body["data"]["id"], body["data"]["ts"]) == ("mine", 1_756_000_000_000)

    trial(tmp_path, test)


def test_work_stops_at_the_first_bad_event(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        status, body = await here.ask("POST", "/e/k", [{"name": "a/b"}, {"name": ""}, {}])
        assert (status, body["status"], len(body["ids"])) == (400, 400, 1)
        assert body["error"] == "event name is empty"
        _, found = await here.ask("GET", "/v1/events")
        assert [row["internal_id"] for row in found["data"]] == body["ids"]

    trial(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"{", "not JSON", id="no-json"),
        pytest.param(b'{"name":"a","data":NaN}', "NaN", id="nan"),
        pytest.param(b"[" * 100_000, "deeply", id="deep"),
        pytest.param(b'{"name":"a","data":{"x":1e999}}', "too large", id="infinite"),
        pytest.param(b'{"name":"a","data":{"x":"\\ud800"}}', "surrogate", id="surrogate"),
        pytest.param(b'{"name":"\\ud800"}', "Unicode", id="surrogate-in-name"),
        pytest.param(b'{"name":7}', "not a string", id="name-number"),
        pytest.param(b'{"name":"INNGEST/x"}', "reserved", id="reserved"),
        pytest.param(b'{"name":"stepfold/x"}', "reserved", id="ours"),
        pytest.param(b'{"name":"a","data":[1]}', "must be an object", id="data-array"),
        pytest.param(b'{"name":"a","ts":1756000000}', "milliseconds", id="seconds"),
        pytest.param(b'{"name":"a","ts":1e999}', "ts is not", id="ts-infinite"),
        pytest.param(b'{"name":"a","ts":"now"}', "ts is not", id="ts-text"),
        pytest.param(b"7", "JSON object", id="number"),
        pytest.param(json.dumps({"name": "a" * 256}).encode(), "256 characters", id="name-long"),
        pytest.param(
            json.dumps({"name": "a", "data": {"x": "y" * (3 << 20)}}).encode(), "limit", id="large"
        ),
        pytest.param(json.dumps([{"name": "a"}] * 5_001).encode(), "5001 events", id="many"),
    ],
)
def test_a_bad_event_is_refused_with_the_reason(tmp_path: Path, body: bytes, says: str) -> None:
    async def test(here: Here) -> None:
        status, answer = await here.ask("POST", "/e/k", body)
        assert (status, answer["status"], answer["ids"]) == (400, 400, [""])
        assert says in answer["error"]
        assert not (await here.ask("GET", "/v1/events"))[1]["data"]

    trial(tmp_path, test)


def test_a_repeated_request_with_a_seed_gives_the_same_ids_and_starts_nothing_twice(
    tmp_path: Path,
) -> None:
    async def test(here: Here) -> None:
        seed = {"x_inngest_event_id_seed": "1756000000000,AAECAwQFBgcICQ=="}
        events = [{"name": "shop/ping"}, {"name": "shop/ping"}]
        first = await here.ask("POST", "/e/k", events, **seed)
        assert first == await here.ask("POST", "/e/k", events, **seed)
        for event in first[1]["ids"]:
            await here.run_of(event, "completed")
            _, body = await here.ask("GET", f"/v1/events/{event}")
            assert body["data"]["internal_id"] == event
        _, found = await here.ask("GET", "/v1/events?name=shop/ping")
        assert len(found["data"]) == 4
        _, runs = await here.ask("GET", "/stepfold/v1/runs")
        assert len(runs["data"]) == 2

    trial(tmp_path, test)


def test_an_unknown_event_key_is_refused(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        status, body = await here.ask("POST", "/e/wrong", {"name": "a"})
        assert (status, body) == (
            401,
            {"status": 401, "message": "", "error": "Event key not found"},
        )
        assert (await here.ask("POST", "/e/right", {"name": "a"}))[0] == 200

    trial(tmp_path, test, ["right"])


def test_a_full_log_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        log = memory_log()
        async with asyncio.timeout(60), engine(log, tmp_path) as here:
            log.full = True
            status, body = await here.ask("POST", "/e/k", {"name": "a"})
            assert (status, body["status"]) == (507, 507)
            assert "make room" in body["error"]
            log.full = False
            assert (await here.ask("POST", "/e/k", {"name": "a"}))[0] == 200

    asyncio.run(test())


def test_a_run_is_seen_from_its_start_to_its_end(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        (event,) = await here.send({"name": "shop/wait"})
        run = await here.run_of(event, "waiting")
        assert run["waiting"][0]["target"] == "shop/go"
        status, body = await here.ask("GET", f"/v1/runs/{run['id']}")
        row = body["data"]
        assert (status, row["status"], row["event_id"]) == (200, "Running", event)
        assert (row["ended_at"], "output" in row) == (None, False)
        assert set(body["metadata"]) == {"fetched_at", "cached_until"}
        await here.send({"name": "shop/go"})
        await here.run_of(event, "completed")
        _, body = await here.ask("GET", f"/v1/runs/{run['id']}")
        assert (body["data"]["status"], body["data"]["output"]) == ("Completed", {"done": True})
        assert body["data"]["ended_at"]
        _, body = await here.ask("GET", f"/stepfold/v1/runs/{run['id']}/timeline")
        assert [entry["type"] for entry in body["data"]] == [
            "RunStarted",
            "StepCompleted",
            "WaitBegan",
            "EventMatched",
            "RunCompleted",
        ]

    trial(tmp_path, test)


def test_a_run_is_cancelled_once(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        (event,) = await here.send({"name": "shop/wait"})
        run = (await here.run_of(event, "waiting"))["id"]
        assert await here.ask("DELETE", f"/v1/runs/{run}") == (200, None)
        _, body = await here.ask("GET", f"/v1/runs/{run}")
        assert (body["data"]["status"], body["data"]["output"]) == ("Cancelled", None)
        for path, status in ((run, 404), ("0" * 26, 404), ("nonsense", 400)):
            found, body = await here.ask("DELETE", f"/v1/runs/{path}")
            assert (found, body["status"]) == (status, status)

    trial(tmp_path, test)


def test_a_signal_reaches_its_waiter(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        signal = {"signal": "approval", "data": {"by": "me"}}
        assert (await here.ask("POST", "/v1/signals", signal))[0] == 404
        (event,) = await here.send({"name": "shop/signal"})
        run = (await here.run_of(event, "waiting"))["id"]
        status, body = await here.ask("POST", "/v1/signals", signal)
        assert (status, body["data"]) == (200, {"run_id": run})
        await here.run_of(event, "completed")
        for bad in (b"{", b"[]", b'{"signal":7}', b'{"signal":""}', b'{"signal":"\\ud800"}'):
            assert (await here.ask("POST", "/v1/signals", bad))[0] == 400

    trial(tmp_path, test)


def test_a_diverged_run_is_stopped_until_it_is_resumed(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        (event,) = await here.send({"name": "shop/diverge"})
        run = (await here.run_of(event, "stopped"))["id"]
        assert (await here.ask("POST", f"/stepfold/v1/runs/{run}/resume"))[0] == 200

        async def stopped_again() -> bool:
            _, body = await here.ask("GET", f"/stepfold/v1/runs/{run}/timeline")
            return [entry["type"] for entry in body["data"]].count("RunStopped") == 2

        await until(stopped_again)

    trial(tmp_path, test)


def test_runs_are_listed_by_status_and_function_in_pages(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        pings = await here.send(*[{"name": "shop/ping"}] * 5)
        (waits,) = await here.send({"name": "shop/wait"})
        for event in pings:
            await here.run_of(event, "completed")
        await here.run_of(waits, "waiting")

        async def runs(query: str) -> list[dict[str, Any]]:
            status, body = await here.ask("GET", f"/stepfold/v1/runs?{query}")
            assert status == 200
            assert body["metadata"]["complete"]
            rows: list[dict[str, Any]] = body["data"]
            return rows

        assert len(await runs("")) == 6
        assert [r["function"] for r in await runs("status=waiting")] == [WAITS]
        assert {r["function"] for r in await runs(f"function={PING}&status=completed")} == {PING}
        page = await runs("limit=4")
        rest = await runs(f"limit=4&cursor={page[-1]['id']}")
        assert len({r["id"] for r in page + rest}) == 6
        assert not await runs(f"since_ms={int(time.time() * 1000) + 60_000}")
        assert (await here.ask("GET", "/stepfold/v1/runs?status=odd"))[0] == 400
        short = page[0]["id"][-8:]
        _, body = await here.ask("GET", f"/stepfold/v1/runs/{short}")
        assert body["data"]["id"] == page[0]["id"]
        assert (await here.ask("GET", "/stepfold/v1/runs/0"))[0] == 409
        assert (await here.ask("GET", "/stepfold/v1/runs/7ZZ"))[0] == 404

    trial(tmp_path, test)


def test_the_live_feed_tells_what_is_confirmed(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        url = here.base + "/stepfold/v1/live"
        with await asyncio.to_thread(urllib.request.urlopen, url, timeout=10) as stream:
            await asyncio.to_thread(stream.readline)
            (event,) = await here.send({"name": "shop/ping"})
            types: list[str] = []
            while "RunCompleted" not in types:
                line = json.loads(await asyncio.to_thread(stream.readline))
                if line:
                    types.append(line["type"])
            assert types == ["RunStarted", "StepCompleted", "RunCompleted"]
            await here.run_of(event, "completed")

    trial(tmp_path, test)


def test_functions_tell_when_crons_come_due_and_what_debounces_hold(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        for id_, k, ts in (("e1", "a", 1), ("e2", "b", 2), ("e3", "a", 3)):
            event = {
                "name": "shop/later",
                "data": {"k": k},
                "id": id_,
                "ts": 1_700_000_000_000 + ts,
            }
            await here.send(event)

        async def look() -> dict[str, Any] | None:
            _, body = await here.ask("GET", "/stepfold/v1/functions")
            rows = {row["id"]: row for row in body["data"]}
            held = {pending["event_id"] for pending in rows[LATER]["debounce"]["next"]}
            return rows if held == {"e2", "e3"} else None

        rows = await until(look)
        assert list(rows) == sorted(f.id for f in FUNCTIONS)
        assert "debounce" not in rows[PING]
        (cron,) = rows[PING]["crons"]
        assert cron["cron"] == "TZ=Asia/Tokyo 0 9 1 1 *"
        next_at = time.gmtime(cron["next_ms"] / 1000)
        assert (next_at.tm_mon, next_at.tm_mday, next_at.tm_hour) == (1, 1, 0)
        debounce = rows[LATER]["debounce"]
        assert (debounce["period_ms"], debounce["key"]) == (HOUR_MS, "event.data.k")
        assert debounce["pending"] == 2
        assert {pending["key"] for pending in debounce["next"]} == {'key "a"', 'key "b"'}

    trial(tmp_path, test)


def test_readiness_and_unknown_routes(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        assert await here.ask("GET", "/health") == (200, {"status": 200, "message": "OK"})
        _, dev = await here.ask("GET", "/dev")
        assert PING in [f["slug"] for f in dev["functions"]]
        assert (await here.ask("GET", "/"))[0] == 200
        status, body = await here.ask("GET", "/nothing")
        assert (status, body["status"]) == (404, 404)
        _, body = await here.ask("GET", "/stepfold/v1/partitions")
        assert [p["status"] for p in body["data"]] == ["owned", "owned"]

    trial(tmp_path, test)


@pytest.mark.parametrize("damage", ["kept", "missing", "damaged", "senseless", "other"])
def test_the_index_knows_finished_runs_after_a_restart(tmp_path: Path, damage: str) -> None:
    async def test() -> None:
        log = memory_log()
        path = tmp_path / "history.db"
        async with asyncio.timeout(60):
            async with engine(log, tmp_path) as here:
                (event,) = await here.send({"name": "shop/ping"})
                await here.run_of(event, "completed")
            if damage == "missing":
                path.unlink()
            elif damage == "damaged":
                path.write_bytes(b"no database" * 1_000)
            elif damage == "senseless":
                with contextlib.closing(sqlite3.connect(path)) as db, db:
                    db.execute("DROP TABLE places")
                    db.execute("CREATE TABLE places(partition, epoch, seq, at_ms)")
                    db.executemany("INSERT INTO places VALUES(?, '', NULL, '')", [(0,), (1,)])
            elif damage == "other":
                with contextlib.closing(sqlite3.connect(path)) as db, db:
                    db.execute("DELETE FROM runs")
                    db.execute("UPDATE places SET at_ms = 1")
            async with engine(log, tmp_path) as here:
                run = await here.run_of(event, "completed")
                assert run["outcome"] == {"data": "pong"}
                _, body = await here.ask("GET", f"/stepfold/v1/runs/{run['id']}/timeline")
                assert len(body["data"]) == 3

    asyncio.run(test())
