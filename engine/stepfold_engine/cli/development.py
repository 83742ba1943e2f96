"""The development server: log, node, worker, history and HTTP in one process, and reloading."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text
from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - names a type of trio, which is not installed

from stepfold.app import App
from stepfold.serving import serves_of
from stepfold.worker import NativeWorker
from stepfold_engine.cli.console import LiveLog
from stepfold_engine.cli.loading import LoadError, Target, load
from stepfold_engine.cli.serving import stopping
from stepfold_engine.cli.traced import traced
from stepfold_engine.clock import SystemClock
from stepfold_engine.crons import due_after
from stepfold_engine.errors import EngineError, InvalidOptionError
from stepfold_engine.expressions import compile_expression
from stepfold_engine.history import History
from stepfold_engine.local import InProcess, drain, threaded_worker
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.matching import CelMatching
from stepfold_engine.native import Native
from stepfold_engine.node import Node
from stepfold_engine.projecting import MISSING, Projecting, installed
from stepfold_engine.settings import Settings
from stepfold_engine.wire.api import build_app
from stepfold_engine.wire.live import LiveFeed
from stepfold_engine.wire.replies import release
from stepfold_engine.wire.scraping import Scraping
from stepfold_engine.wire.server import listen, serving
from stepfold_engine.wire.sql import Sql
from stepfold_schemas.entries import FunctionSpec

_log = logging.getLogger("stepfold")

RELOAD_DEBOUNCE_MS = 200


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was given."""

    target: Target
    host: str
    port: int
    data: Path
    partitions: int | None
    reload: bool
    always_replay: bool
    event_keys: tuple[str, ...]
    projections: bool = True
    serves: tuple[str, ...] = ()


class Development:
    """Runs the functions of one file until it is told to stop."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console = options, console
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Run until Ctrl-C or SIGTERM.

        Raises:
            LoadError: the file cannot be used.
            EngineError: the log cannot be opened, or the port is taken.
        """
        given = self._options
        self._app = load(given.target)
        specs = checked_specs(self._app)
        sockets = listen(given.host, given.port)
        clock = SystemClock()
        log, scraping = EmbeddedLog.open(given.data, given.partitions, clock.now_ms), Scraping()
        try:
            settings = Settings(always_replay=given.always_replay)
            self._node = Node(scraping.measured(log), clock, CelMatching(), settings)
            self._node.watchers += scraping.watchers
            async with traced(self._node), self._running():
                await self._declare(specs)
                self._node.resume()
                url = f"http://{given.host}:{sockets[0].getsockname()[1]}"
                self._greet(url, specs)
                sql = Sql(self._tables, MISSING if given.projections else "")
                api = build_app(self._node, self._history, self._live, given.event_keys, sql)
                api.router.routes.append(scraping.route(self._node))
                async with serving(api, sockets):
                    await self._until_stopped()
                    self._live.close()
                    self._say("stopping: attempts that are running may end first", "dim")
        finally:
            for opened in sockets:
                opened.close()
            await log.close()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        node = self._node
        self._live = LiveFeed()
        printing = LiveLog(self._console)
        node.watchers += [self._live, printing]
        self._history = History(node, self._options.data / "history.db")
        wanted = self._options.projections and installed()
        self._tables = Projecting(self._options.data) if wanted else None
        tables = self._tables.running() if self._tables is not None else nullcontext()
        async with node.running(self._make_worker), self._history.running(), tables:
            printing.start()
            try:
                yield
                await drain(node.native, self._worker)
            finally:
                self._worker.close()
                printing.stop()

    async def _until_stopped(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch()) if self._options.reload else None
            with stopping(self._stop):
                await self._stop.wait()
            if watching is not None:
                watching.cancel()

    # Functions.

    def _make_worker(self, native: Native) -> NativeWorker:
        native.serves = serves_of(lambda: self._app.functions, self._options.serves)
        self._worker = threaded_worker(self._app, native, self._node.settings)
        return self._worker

    async def _declare(self, specs: Sequence[FunctionSpec]) -> None:
        """Put the file's functions in force. It is the whole app: what is not in it leaves."""
        declared = [d for state in self._node.states() for d in state.declarations.items()]
        others = {app for app, d in declared if d.functions} - {self._app.id}
        try:
            await self._node.declare(self._app.id, specs, complete=True, forced=True)
            for app in sorted(others):
                await self._node.declare(app, [], complete=True, forced=True)
                self._say(f"app {app} is not in the file: events start its functions no more")
        except EngineError as error:
            _log.error("the functions could not be declared: %s", error)

    async def _watch(self) -> None:
        """Load the code again whenever a Python file in its folder changes."""
        changes = awatch(
            self._options.target.folder,
            watch_filter=PythonFilter(),
            stop_event=self._stop,
            debounce=RELOAD_DEBOUNCE_MS,
        )
        try:
            async for _ in changes:
                await self._reload()
        except (OSError, RuntimeError) as error:
            _log.warning("changes of the code are not seen any more: %s", error)

    async def _reload(self) -> None:
        try:
            # In a thread: an import may take long, and the engine goes on meanwhile.
            app = await asyncio.to_thread(load, self._options.target)
            specs = checked_specs(app)
        except LoadError as error:
            self._say(f"the code was not loaded, the old one stays: {error}", "red")
            return
        self._app = app
        app.engine = InProcess(self._node.native)
        self._worker.replace_functions(app.functions)
        await self._declare(specs)
        self._node.native.start_unserved()
        self._say(f"loaded again: {_counted(len(specs), 'function')}", "green")

    # Words.

    def _greet(self, url: str, specs: Sequence[FunctionSpec]) -> None:
        unfinished = sum(len(state.runs) for state in self._node.states())
        self._say(f"stepfold {release()} at {url}", "bold")
        self._say(f"log in {self._options.data}, {_counted(unfinished, 'unfinished run')}", "dim")
        for spec in sorted(specs, key=lambda s: s.id):
            starts = ", ".join([t.event for t in spec.triggers] + spec.crons)
            self._say(f"  {spec.id:<30} {f'on {starts}' if starts else 'invoked only'}")
        if not specs:
            self._say(f"  app {self._app.id} has no functions yet", "yellow")

    def _say(self, text: str, style: str = "") -> None:
        with suppress(OSError):
            self._console.print(Text(text, style), soft_wrap=True)


def checked_specs(app: App) -> list[FunctionSpec]:
    """Return what is declared of an app's functions.

    Raises:
        LoadError: an expression cannot be used.
    """
    specs = [function.spec() for function in app.functions.values()]
    for spec in specs:
        expressions = {f"the trigger {t.event}": t.expression for t in spec.triggers}
        expressions |= {f"cancel_on {c.event}": c.expression for c in spec.cancel_on}
        expressions["idempotency"] = spec.idempotency
        expressions["debounce"] = spec.debounce.key if spec.debounce is not None else ""
        for where, expression in expressions.items():
            if not expression:
                continue
            try:
                compile_expression(expression)
            except InvalidOptionError as error:
                raise LoadError(f"function {spec.id}, {where}: {error}") from error
        for cron in spec.crons:
            try:
                due_after(cron, 0)
            except InvalidOptionError as error:
                raise LoadError(f"function {spec.id}: {error}") from error
    return specs


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
