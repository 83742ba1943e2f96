"""Runs random programs as durable functions.

One ``async def`` interprets every program. Outside of steps it is deterministic. It keeps an
account of every outcome that it gets, in the order in which it gets them (``Account``), and
returns it, so that a run's result says which outcomes its code has seen.

Names: what is told to ``Hooks.seen`` as ``step`` is the journal's ``name`` of the operation:
the id, with ``:1``, ``:2``, … for the second, third, … use of it in a run. asyncio's timers
(``Pause``, ``Within``) are ``timer``, ``timer:1``, … A name belongs to one operation of a run,
with one exception: what an attempt of the function's own code cancelled before it failed, and the
next attempt asks for again, has a new key in the journal and the same name.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Coroutine
from datetime import timedelta
from typing import Any

import stepfold
from tests.simulation.account import Account
from tests.simulation.bodies import Bodies, Deaths, Hooks, planned
from tests.simulation.statements import (
    APP,
    Body,
    Choose,
    DebouncePlan,
    Draw,
    Finally,
    FunctionPlan,
    Invoke,
    Locked,
    OnRetry,
    Parallel,
    Pause,
    Plan,
    Race,
    Raise,
    Repeat,
    SendEvent,
    SendSignal,
    Sleep,
    SleepUntil,
    Statement,
    Step,
    Try,
    Version,
    WaitEvent,
    WaitSignal,
    While,
    Within,
)

TIMER = "timer"
"""The name under which the journal shows asyncio's timers."""


def app_of(
    plan: Plan,
    hooks: Hooks,
    *,
    only: Collection[str] | None = None,
    deaths: Deaths | None = None,
) -> stepfold.App:
    """Make an app of a plan's functions, for one life of one simulated process.

    Args:
        plan: the plan.
        hooks: what the process gives.
        only: ids of the functions that this process has; None for all.
        deaths: shared by all processes of a simulation, so that a body kills its process no more
            often than it should; without it, none does.
    """
    app = stepfold.App(APP)
    for function in plan.functions:
        if only is None or function.id in only:
            _add(app, plan.seed, function, hooks, deaths)
    return app


def _add(
    app: stepfold.App, seed: int, plan: FunctionPlan, hooks: Hooks, deaths: Deaths | None
) -> None:
    def call(body: Body, function: str) -> Any:
        async def program(ctx: stepfold.Context) -> Any:
            return await Interpreter(ctx, Bodies(seed, function, hooks, deaths)).run(body)

        return program

    first, *others = plan.on or ("",)
    triggers = [stepfold.Trigger(first, plan.if_ or None), *map(stepfold.Trigger, others)]
    cancel = stepfold.CancelOn(
        plan.cancel_on,
        match="data.k" if plan.cancel_match else None,
        timeout=_duration(plan.cancel_timeout_s),
    )
    declare = app.function(
        plan.id,
        on=triggers if first else None,
        retries=_retry(plan.retries, plan.delay_s),
        cron=plan.crons,
        idempotency=plan.idempotency or None,
        debounce=_debounce(plan.debounce),
        cancel_on=cancel if plan.cancel_on else None,
        start_timeout=_duration(plan.start_timeout_s),
        finish_timeout=_duration(plan.finish_timeout_s),
        version=plan.version or None,
    )
    function = declare(call(plan.body, plan.id))
    if plan.failure is not None:
        function.on_failure(call(plan.failure, f"{plan.id}-failure"))


def _debounce(plan: DebouncePlan | None) -> stepfold.Debounce | None:
    if plan is None:
        return None
    period = timedelta(seconds=plan.period_s)
    return stepfold.Debounce(period, plan.key or None, _duration(plan.timeout_s))


def _retry(retries: int, delay_s: float) -> stepfold.Retry:
    delay = timedelta(seconds=delay_s)
    return stepfold.Retry(retries, delay=delay, factor=2.0, max_delay="30s", jitter=0.25)


def _duration(seconds: float) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds else None


class Interpreter:
    """Runs a program for one life of a run."""

    def __init__(self, ctx: stepfold.Context, bodies: Bodies) -> None:
        self._ctx, self._bodies, self._hooks = ctx, bodies, bodies.hooks
        self._run_id, self._account = ctx.run_id, Account()
        self._uses = Counter[str]()
        self._lock = asyncio.Lock()
        data = ctx.event.data
        self._k, self._reply = data.get("k", 0), data.get("reply", "sig/nobody")

    async def run(self, body: Body) -> Any:
        """Run the program; return the account."""
        attempt, trigger = self._ctx.attempt, json.dumps(self._ctx.event.data)
        self._hooks.seen(self._run_id, "began", attempt=attempt, value=trigger)
        try:
            await self._do_all(body)
        except Exception as error:
            self._hooks.seen(self._run_id, "raised", "", attempt, json.dumps(str(error)))
            raise
        result = self._account.result()
        self._hooks.seen(self._run_id, "returned", "", attempt, json.dumps(result))
        return result

    async def _do_all(self, body: Body) -> None:
        for statement in body:
            await self._do(statement)

    async def _do(self, statement: Statement) -> None:
        match statement:
            case Step() | SendEvent() | SendSignal() | Invoke():
                await self._act(statement)
            case Sleep() | SleepUntil() | Pause() | WaitEvent() | WaitSignal():
                await self._wait(statement)
            case Parallel() | Race() | Within() | Locked():
                await self._together(statement)
            case Draw():
                now_ms = round(self._ctx.now().timestamp() * 1000)
                self._account.add("draw", [self._ctx.random().randrange(1000), now_ms])
            case Version():
                chosen = self._ctx.version(statement.change)
                self._account.add(f"version {statement.change}", chosen)
            case _:
                await self._control(statement)

    # What is recorded.

    async def _act(self, statement: Step | SendEvent | SendSignal | Invoke) -> None:
        step, name = self._ctx.step, self._name(statement.id)
        given, k = self._account.total, self._k
        match statement:
            case Step():
                policy = None
                if statement.retries is not None:
                    policy = _retry(statement.retries, 0.5)
                bound = step.options(retries=policy, timeout=_duration(statement.timeout_s))
                await self._get(name, bound.run(statement.id, self._bodies.run, statement, given))
            case SendEvent():
                data = {"k": k, "n": given % 10, "reply": f"sig/{self._run_id}"}
                ts = None
                if statement.delay_s:
                    ts = self._ctx.now() + timedelta(seconds=statement.delay_s)
                events = [
                    stepfold.NewEvent(
                        statement.event,
                        data,
                        f"{self._run_id}/{name}/{index}" if statement.own_ids else None,
                        ts,
                    )
                    for index in range(statement.count)
                ]
                await self._get(name, step.send_event(statement.id, events), len)
            case SendSignal():
                signal = self._reply if statement.signal == "reply" else self._of(statement.signal)
                await self._get(name, step.send_signal(statement.id, signal, {"n": given % 10}))
            case Invoke():
                call = step.invoke(
                    statement.id,
                    function=f"{APP}-{statement.function}",
                    data={"k": k, "n": given % 10, "reply": f"sig/{self._run_id}"},
                    timeout=_duration(statement.timeout_s) or "1d",
                )
                await self._get(name, call, lambda result: result["total"])

    async def _wait(self, statement: Sleep | SleepUntil | Pause | WaitEvent | WaitSignal) -> None:
        step, now = self._ctx.step, self._ctx.now()
        if isinstance(statement, Pause):
            await self._get(self._name(TIMER), asyncio.sleep(statement.seconds))
            return
        name = self._name(statement.id)
        match statement:
            case Sleep():
                await self._get(name, step.sleep(statement.id, _span(statement.seconds)))
            case SleepUntil():
                until = now + _span(statement.seconds)
                await self._get(name, step.sleep_until(statement.id, until))
            case WaitEvent():
                back = now - _span(statement.back_s) if statement.since == "back" else None
                call = step.wait_for_event(
                    statement.id,
                    event=statement.event,
                    timeout=_span(statement.timeout_s),
                    match=statement.match or None,
                    if_=statement.if_ or None,
                    since="run" if statement.since == "run" else back,
                )
                await self._get(name, call, lambda event: event and event.data)
            case WaitSignal():
                waiting = step.wait_for_signal(
                    statement.id,
                    signal=self._of(statement.signal),
                    timeout=_span(statement.timeout_s),
                    on_conflict=statement.on_conflict,
                )
                await self._get(name, waiting, lambda signal: signal and signal.data)

    def _of(self, signal: str) -> str:
        return {"own": f"sig/{self._run_id}", "k": f"sig/k{self._k}"}.get(signal, signal)

    def _name(self, id_: str) -> str:
        """Count a use of an id as the SDK does; call it right before the operation is asked for."""
        count = self._uses[id_]
        self._uses[id_] += 1
        return f"{id_}:{count}" if count else id_

    async def _get(
        self, name: str, call: Coroutine[Any, Any, Any], shown: Any = lambda value: value
    ) -> None:
        """Await an operation and take note of what comes of it."""
        try:
            value = shown(await call)
        except stepfold.StepError as error:
            self._account.note(name, f"!{error.name}")
            self._hooks.seen(self._run_id, "error", name, value=json.dumps(str(error)))
            raise
        except asyncio.CancelledError:
            self._cancelled(name)
            raise
        self._account.note(name, value)
        self._hooks.seen(self._run_id, "outcome", name, value=json.dumps(value))

    def _cancelled(self, name: str) -> None:
        # A life that is dropped from memory is cancelled, too; that is not the program's doing.
        if not getattr(self._ctx._life, "mute", False):
            self._hooks.seen(self._run_id, "cancelled", name)

    # Several things at once.

    async def _together(self, statement: Parallel | Race | Within | Locked) -> None:
        match statement:
            case Parallel(how="gather"):
                await asyncio.gather(*map(self._do_all, statement.branches))
            case Parallel():
                async with asyncio.TaskGroup() as group:
                    for branch in statement.branches:
                        group.create_task(self._do_all(branch))
            case Race():
                await self._race(statement)
            case Within():
                await self._within(statement)
            case Locked():
                async with self._lock:
                    await self._do_all(statement.body)

    async def _race(self, race: Race) -> None:
        # Lists, since the order of a set of tasks differs from one process to the next.
        tasks = [asyncio.ensure_future(self._do_all(branch)) for branch in race.branches]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.add_done_callback(_look_at)
                task.cancel()
        done = [task for task in tasks if task.done()]
        if race.settle:
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _within(self, within: Within) -> None:
        name = self._name(TIMER)
        try:
            if within.how == "timeout":
                async with asyncio.timeout(within.seconds):
                    await self._do_all(within.body)
            else:
                await asyncio.wait_for(self._do_all(within.body), within.seconds)
        except TimeoutError:
            self._account.note(name, "late")
            self._hooks.seen(self._run_id, "outcome", name, value='"late"')
        except BaseException:
            self._cancelled(name)
            raise
        else:
            self._cancelled(name)

    # The order of things.

    async def _control(self, statement: Statement) -> None:  # noqa: PLR0912 - one case for each
        match statement:
            case Repeat():
                for _ in range(statement.times):
                    await self._do_all(statement.body)
            case While():
                for _ in range(statement.most):
                    if self._account.got >= statement.below:
                        break
                    await self._do_all(statement.body)
            case Choose():
                odd = self._account.total % 2
                await self._do_all(statement.odd if odd else statement.even)
            case Try():
                try:
                    await self._do_all(statement.body)
                except (stepfold.StepError, ExceptionGroup) as error:
                    if not _only_steps(error):
                        raise
                    await self._do_all(statement.handler)
            case Finally():
                try:
                    await self._do_all(statement.body)
                finally:
                    await self._do_all(statement.cleanup)
            case Raise():
                if self._ctx.attempt <= statement.attempts:
                    raise planned(statement.how, f"attempt {self._ctx.attempt} fails, as planned")
            case OnRetry():
                if self._ctx.attempt > 1:
                    await self._do_all(statement.body)
            case _:
                raise AssertionError(f"not a statement of control: {statement}")


def _span(seconds: float) -> timedelta:
    return timedelta(milliseconds=round(seconds * 1000))


def _look_at(task: "asyncio.Future[Any]") -> None:
    """Look at a loser's end; asyncio would complain that nobody did."""
    if not task.cancelled():
        task.exception()


def _only_steps(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_steps(one) for one in error.exceptions)
    return isinstance(error, stepfold.StepError)
