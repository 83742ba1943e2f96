"""``stepfold export``: from an engine over HTTP, and from its folder, which gives the same."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import stepfold
from stepfold_engine.cli.program import program
from stepfold_engine.history import History
from stepfold_engine.local import running_app
from stepfold_engine.owner import Owner
from stepfold_engine.projecting import Projecting
from stepfold_engine.recordings import missing_from
from stepfold_engine.settings import Settings
from stepfold_engine.wire.api import build_app
from stepfold_engine.wire.live import LiveFeed
from stepfold_engine.wire.server import listen, serving
from stepfold_engine.wire.sql import Sql
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision, RunCompleted, RunFailed, RunStarted
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.runfile import RunFile
from tests.replaying.shop import body


def app() -> stepfold.App:
    found = stepfold.App("shop")

    @found.function("refund", on=None)
    async def refund(ctx: stepfold.Context) -> str:
        return await ctx.step.run("pay back", body("pay back", "paid"))

    @found.function("fulfil", on="shop/order", retries=0)
    async def fulfil(ctx: stepfold.Context) -> str:
        if ctx.event.data["order"] == 13:
            raise ValueError("no thirteen")
        await ctx.step.run("charge", body("charge", {"token": "secret"}))
        return await ctx.step.invoke("refund", function=refund)

    return found


@dataclass
class Served:
    """An engine that serves HTTP, in a thread of its own; it hears of what ends."""

    folder: Path
    url: str = ""
    ended: list[str] = field(default_factory=list[str])
    everything: list[str] = field(default_factory=list[str])

    def cli(self, *args: str) -> Result:
        return CliRunner().invoke(program, list(args))

    def ok(self, *args: str) -> str:
        result = self.cli(*args)
        assert result.exit_code == 0, result.output
        return result.output

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """Note the ends of runs, and of those that events started, in the order of their starts."""
        del owner
        for entry in decision.entries:
            if isinstance(entry, RunStarted) and entry.invoker is None:
                self._asked.add(entry.run)
            if isinstance(entry, RunCompleted | RunFailed):
                self.everything.append(ulid_text(entry.run))
                if entry.run in self._asked:
                    self.ended = sorted([*self.ended, ulid_text(entry.run)])

    _asked: set[bytes] = field(default_factory=set[bytes])


@contextmanager
def served(
    folder: Path, orders: list[int], *, tables: bool = False, settings: Settings | None = None
) -> Iterator[Served]:
    """Have these orders fulfilled by an engine, which goes on while the block runs."""
    found, ready, stop = Served(folder), threading.Event(), threading.Event()

    async def serve() -> None:
        given = app()
        projecting = Projecting(folder) if tables else None
        beside = projecting.running() if projecting is not None else nullcontext()
        running = running_app(given, folder, partitions=2, settings=settings, watchers=[found])
        async with running as node, beside:
            history = History(node, folder / "history.db")
            sockets = listen("127.0.0.1", 0)
            api = build_app(node, history, LiveFeed(), sql=Sql(projecting))
            async with history.running(), serving(api, sockets):
                found.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
                for order in orders:
                    await given.send(name="shop/order", data={"order": order})
                while len(found.ended) < len(orders):
                    await asyncio.sleep(0.01)
                ready.set()
                await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        while not ready.wait(0.1):
            assert thread.is_alive(), "the engine ended"
        yield found
    finally:
        stop.set()
        thread.join()


def read(path: Path) -> RunFile:
    with path.open("rb") as source:
        return codec.read_runs(source)


def test_an_engine_and_its_folder_give_the_same_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one.avro", tmp_path / "two.avro"
    with served(tmp_path / "log", [7]) as s:
        (run,) = s.ended
        said = s.ok("export", run, "-o", str(one), "--with-related", "--url", s.url)
        assert f"run {run} and 1 related" in said
        assert "left out" not in said
        assert "shop-fulfil, completed" in said
        s.ok("export", run[-8:].lower(), "-o", str(two), "--url", s.url)
        assert read(two).runs == read(one).runs[:1]
        assert [e.function for e in missing_from(read(two).runs)] == ["shop-refund"]
        s.ok("export", run, "-o", str(two), "--with-related", "--data", str(s.folder))
        assert read(two).runs == read(one).runs
        assert (read(one).source, read(two).source) == (s.url, str(s.folder))
        assert [r.function for r in read(one).runs] == ["shop-fulfil", "shop-refund"]
    with served(tmp_path / "log", []) as s:
        s.ok("export", run, "-o", str(two), "--url", s.url)
        assert read(two).runs == read(one).runs[:1]


def test_runs_of_an_engine_can_be_fetched_in_pages(tmp_path: Path) -> None:
    from stepfold_engine.cli.remote import Remote

    with served(tmp_path / "log", [1, 2, 3, 13]) as s:
        remote, found, before = Remote(s.url), list[str](), ""
        while True:
            query = {"function": "shop-fulfil", "limit": 3, "before": before}
            data, headers = remote.download("/stepfold/v1/export", query=query)
            import io

            runs = codec.read_runs(io.BytesIO(data)).runs
            found += [type(codec.decode_entry(run.journal[-1].entry)).__name__ for run in runs]
            before = headers.get("x-stepfold-next", "")
            if not before:
                break
        assert sorted(found) == [RunCompleted.__name__] * 3 + [RunFailed.__name__]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["0000000000000000000000000A"], 1, "no run 0000000000000000000000000A"),
        (["not a run"], 2, "not a run's id"),
        (["RUN", "--redact", "data.x"], 2, "begins with event, step or result"),
        (["RUN", "-o", "nowhere/run.avro"], 1, "cannot be written"),
        (["run.avro"], 2, "is a file already"),
    ],
)
def test_what_cannot_be_exported_is_told(
    tmp_path: Path, args: list[str], code: int, says: str
) -> None:
    with served(tmp_path / "log", [7]) as s:
        given = [s.ended[0] if arg == "RUN" else arg for arg in args]
        for where in (["--url", s.url], ["--data", str(s.folder)]):
            result = s.cli("export", *given, *where)
            assert (result.exit_code, says in result.output) == (code, True), result.output
