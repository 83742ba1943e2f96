"""Random programs: they are the same everywhere, use everything, and do what the oracle says."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import get_args

import pytest

from stepfold_engine.errors import RequestRefusedError
from stepfold_schemas.entries import (
    CronFired,
    EventMatched,
    PartitionClaimed,
    RunCompleted,
    RunFailed,
    RunStarted,
    SignalHeld,
)
from tests.behaviour.scenario import RunRecord, Scenario, Variant, scenario
from tests.simulation.account import Account
from tests.simulation.bodies import value_of
from tests.simulation.programs import (
    Deaths,
    Ending,
    FunctionPlan,
    MismatchError,
    Outcome,
    Plan,
    RunOutcomes,
    Stimulus,
    app_of,
    expected,
    is_simple,
    outcomes_of,
    plan_of,
)
from tests.simulation.statements import (
    Draw,
    Invoke,
    Parallel,
    SendEvent,
    Sleep,
    Statement,
    Step,
    walk,
)

ROOT = Path(__file__).resolve().parent.parent.parent
ENGINES = [Variant("memory", replay, 2) for replay in (False, True)]


class Recording:
    """Hooks of the one process of a scenario: they note what was seen."""

    def __init__(self) -> None:
        self.seen_: list[tuple[str, str, str, int, str]] = []
        self.dying = asyncio.Event()

    def seen(self, run: str, what: str, step: str = "", attempt: int = 0, value: str = "") -> None:
        self.seen_.append((run, what, step, attempt, value))

    async def die(self) -> None:
        self.dying.set()
        await asyncio.Event().wait()

    async def block(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def flaky(self, run: str, step: str, attempt: int) -> random.Random:
        return random.Random(f"{run}/{step}/{attempt}")


def play(
    plan: Plan, variant: Variant, folder: Path, deaths: Deaths | None = None
) -> tuple[dict[bytes, RunRecord], Recording]:
    """Run a plan until every run has ended; return what the journal says of the runs."""
    hooks = Recording()
    with scenario(variant, app_of(plan, hooks, deaths=deaths), folder) as s:
        start_s = s.loop.real_time()
        for stimulus in plan.stimuli:
            pass_time(s, hooks, start_s + stimulus.at_s)
            stimulate(s, stimulus)
        pass_time(s, hooks, start_s + plan.duration_s)
        runs = recorded(s)
        while any(run.end is None for run in runs.values()):
            assert not [run for run in runs.values() if run.status == "stopped"]
            assert s.loop.real_time() < start_s + 3_600, "a run does not end"
            pass_time(s, hooks, s.loop.real_time() + 30)
            runs = recorded(s)
    return runs, hooks


def recorded(s: Scenario) -> dict[bytes, RunRecord]:
    """Read all runs out of the journals: a scenario does not see what is durable in a crash."""
    runs: dict[bytes, RunRecord] = {}
    for partition in range(s.variant.partitions):
        seq = -1
        for decision in s.journal(partition):
            if any(isinstance(entry, PartitionClaimed) for entry in decision.entries):
                continue
            assert seq in (-1, decision.seq - 1), "no other process writes"
            seq = decision.seq
            for entry in decision.entries:
                if isinstance(entry, RunStarted):
                    runs[entry.run] = RunRecord(entry.run, entry.function)
                refs = entry.waits if isinstance(entry, EventMatched) else [entry]
                for run in dict.fromkeys(getattr(ref, "run", b"") for ref in refs):
                    if run in runs and not isinstance(entry, SignalHeld | CronFired):
                        runs[run].entries.append(entry)
                        runs[run].at_ms.append(decision.at_ms)
    return runs


def pass_time(s: Scenario, hooks: Recording, until_s: float) -> None:
    while (left_s := until_s - s.loop.real_time()) > 0.001:

        async def look(seconds: float = left_s) -> None:
            dying = asyncio.ensure_future(hooks.dying.wait())
            await asyncio.wait([dying], timeout=seconds)
            dying.cancel()

        s.do(look())
        if hooks.dying.is_set():
            hooks.dying.clear()
            s.restart()


def stimulate(s: Scenario, stimulus: Stimulus) -> None:
    match stimulus.kind:
        case "event":
            s.send(stimulus.name, stimulus.data, id=stimulus.id)
        case "signal":
            s.signal(stimulus.name, stimulus.data)
        case "cancel":
            known = s.of(stimulus.name)
            if stimulus.data["nth"] < len(known):
                try:
                    s.do(s.node.cancel(known[stimulus.data["nth"]].id, "by the plan"))
                except RequestRefusedError as error:
                    if error.status != 404:
                        raise
        case "rerun":
            pass  # these programs are compared as they are started by events


def check(plan: Plan, run: RunRecord) -> None:
    """Compare how a run ended with what the oracle says."""
    end = run.end
    outcomes = outcomes_of(zip(run.at_ms, run.entries, strict=True))
    if not isinstance(end, RunCompleted | RunFailed):
        return
    ending = expected(plan, outcomes)
    if isinstance(end, RunCompleted):
        assert (ending.kind, ending.value) == ("returned", run.result), outcomes
    else:
        assert ending.kind == "raised", (ending, end.error.message, outcomes)


@pytest.mark.parametrize("variant", ENGINES, ids=str)
@pytest.mark.parametrize("seed", range(30))
def test_programs_do_on_the_engine_what_the_oracle_says(
    seed: int, variant: Variant, tmp_path: Path
) -> None:
    plan = plan_of(seed)
    runs, hooks = play(plan, variant, tmp_path)
    for run in runs.values():
        check(plan, run)
    check_names(runs, hooks)


def test_a_body_kills_its_process_as_often_as_it_should(tmp_path: Path) -> None:
    function = FunctionPlan("f0", (Step("a"), Step("b", kills=1), Step("c")), ("go/f0",))
    plan = Plan(1, (function,), (Stimulus(1.0, "event", "go/f0", {}),), 5.0)
    deaths = Deaths()
    runs, hooks = play(plan, ENGINES[0], tmp_path, deaths)
    (run,) = runs.values()
    assert deaths == {(run.text, "b"): 1}
    assert [step for _, what, step, *_ in hooks.seen_ if what == "body-began"] == list("abbc")
    check(plan, run)
    assert run.status == "completed"


def check_names(runs: dict[bytes, RunRecord], hooks: Recording) -> None:
    """Compare the names that programs tell of with those in the journal."""
    told = {(run, step) for run, what, step, *_ in hooks.seen_ if what in ("outcome", "error")}
    for run in runs.values():
        outcomes = outcomes_of(zip(run.at_ms, run.entries, strict=True)).outcomes
        recorded_names = [outcome.name for outcome in outcomes]
        assert len(recorded_names) == len(set(recorded_names)), "a name has one outcome"
        assert {step for of, step in told if of == run.text} <= set(recorded_names)


def test_a_plan_is_the_same_in_every_process() -> None:
    here = sha256("".join(plan_of(seed).text() for seed in range(40)).encode()).hexdigest()
    code = (
        "from hashlib import sha256; from tests.simulation.programs import plan_of;"
        "print(sha256(''.join(plan_of(s).text() for s in range(40)).encode()).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here


def test_every_kind_of_statement_and_option_comes_up() -> None:
    seeds = range(300)
    found = Counter(feature for seed in seeds for feature in features(plan_of(seed)))
    wanted = [kind.__name__ for kind in get_args(Statement)]
    assert [name for name in wanted if found[name] < 0.02 * len(seeds)] == []
    missing = [name for name in OPTIONS if found[name] < 0.01 * len(seeds)]
    assert missing == [], {name: found[name] for name in missing}
    # Programs in which nothing races: for them the oracle's word does not depend on asyncio.
    functions = [f for seed in seeds for f in plan_of(seed).functions]
    assert len(list(filter(is_simple, functions))) > len(functions) / 2


OPTIONS = (
    *(f"FunctionPlan.{name}" for name in ("cancel_on", "cancel_match", "cancel_timeout_s")),
    *(f"FunctionPlan.{name}" for name in ("if_", "idempotency", "version", "failure")),
    *(f"FunctionPlan.{name}" for name in ("start_timeout_s", "finish_timeout_s")),
    *(f"Step.{name}" for name in ("fails", "flaky", "timeout_s", "blocks_s", "kills", "pad")),
    *(f"Step.how={how}" for how in ("final", "later", "slow")),
    *("WaitEvent.match", "WaitEvent.if_", "WaitEvent.since=run", "WaitEvent.since=back"),
    *("WaitSignal.signal=own", "WaitSignal.signal=sig/shared", "WaitSignal.on_conflict=replace"),
    *("SendEvent.own_ids", "SendEvent.delay_s", "SendEvent.count", "Invoke.timeout_s"),
    *("Parallel.how=gather", "Parallel.how=group", "Race.settle", "Within.how=wait_for"),
    *("Raise.how=final", "Raise.how=later", "event", "signal", "cancel", "repeated id", "go/*"),
)


def features(plan: Plan) -> set[str]:
    """Name what a plan uses: kinds of statements, and options that are not the default."""
    found: set[str] = {stimulus.kind for stimulus in plan.stimuli}
    ids = [stimulus.id for stimulus in plan.stimuli if stimulus.id]
    if len(set(ids)) < len(ids):
        found.add("repeated id")
    for function in plan.functions:
        found |= options(function) | {name for name in function.on if name == "go/*"}
        for statement in walk((*function.body, *(function.failure or ()))):
            found |= options(statement) | {type(statement).__name__}
    return found


def options(value: FunctionPlan | Statement) -> set[str]:
    kind, found = type(value).__name__, set[str]()
    for one in fields(value):
        given = getattr(value, one.name)
        if given != one.default:
            found.add(f"{kind}.{one.name}")
            found.add(f"{kind}.{one.name}={given}" if isinstance(given, str) else "")
    return found


def nothing_starts_itself(plan: Plan) -> bool:
    for index, function in enumerate(plan.functions):
        up_to = plan.functions[: index + 1]
        for statement in walk(function.body):
            match statement:
                case SendEvent(event=event):
                    if any(event in f.on or ("go/*" in f.on and event[:3] == "go/") for f in up_to):
                        return False
                case Invoke(function=other) if other in {f.id for f in up_to}:
                    return False
                case _:
                    pass
    return True


def test_no_plan_goes_on_for_ever() -> None:
    assert [seed for seed in range(300) if not nothing_starts_itself(plan_of(seed))] == []


# What the oracle notices, by hand.

PARALLEL = FunctionPlan(
    "f0", (Parallel("gather", ((Sleep("a", 1.0),), (Sleep("b", 1.0), Step("c")))), Draw())
)
BY_HAND = Plan(5, (PARALLEL,), (), 1.0)
RUN = "01MCC5RQ0B00AV0KQ2JSSC5RY6"


def by_hand(*outcomes: Outcome) -> Ending:
    return expected(BY_HAND, RunOutcomes("f0", RUN, {}, 1_000, 1, outcomes))


def slept(name: str, at_ms: int = 2_000) -> Outcome:
    return Outcome(name, None, "", at_ms)


def test_the_oracle_follows_the_order_of_the_journal() -> None:
    total = Account()
    total.note("b", None)
    after_b = value_of(5, "f0", "c", RUN, total.total)
    ending = by_hand(slept("b"), Outcome("c", after_b, "", 2_500), slept("a", 3_000))
    assert ending.kind == "returned"
    assert [name for name, _ in ending.value["seen"]] == ["b", "c", "a", "draw"]
    assert ending.value["seen"][-1][1][1] == 3_000
    assert by_hand(slept("b")) == Ending("waits", ["a", "c"])


def test_the_oracle_refuses_what_the_program_cannot_have_had() -> None:
    with pytest.raises(MismatchError, match="asks for a, b"):
        by_hand(slept("c"))
    with pytest.raises(MismatchError, match="its body returns"):
        by_hand(slept("b"), Outcome("c", 77, "", 2_500))
    with pytest.raises(MismatchError, match="asks for a"):
        by_hand(slept("b"), slept("b"))


def test_the_oracle_hands_on_what_nobody_catches() -> None:
    ending = by_hand(slept("b"), Outcome("c", None, "PlannedError", 2_500))
    assert ending == Ending("raised", "PlannedError")
