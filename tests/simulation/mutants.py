"""Planted bugs: ``python -m tests.simulation.mutants [NAME …]`` says how many seeds each one takes.

A mutant is a small change of one function's source, made in a process of its own. If the text that
it changes is gone, that is an error, so that no mutant dies out unnoticed.
"""

import argparse
import importlib
import inspect
import multiprocessing
import signal
import sys
import textwrap
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tests.simulation.trial import simulate

SEEDS_MAX = 1_500
SECONDS_A_SEED = 20
"""A simulation that takes longer hangs, which is a bug that was caught, too."""


@dataclass(frozen=True)
class Mutant:
    """A planted bug: in ``where`` (module:function), ``old`` becomes ``new``.

    Attributes:
        rare: seeds that catch it, found among hundreds of thousands; they are tried at last.
    """

    name: str
    where: str
    old: str
    new: str
    rare: tuple[int, ...] = ()


E = "stepfold_engine"
MUTANTS = [
    Mutant(
        "act before durable",
        f"{E}.writer:JournalWriter._append",
        "base = await self._log",
        "self._confirm(batch)\n        base = await self._log",
    ),
    Mutant(
        "confirm without reading back",
        f"{E}.writer:JournalWriter._append",
        "if base is not None and base == self._end:",
        "if base is not None:",
    ),
    Mutant(
        "take an append in doubt for done",
        f"{E}.writer:JournalWriter._append",
        "left = await self._claim_again(batch)",
        "left = await self._claim_again(batch)\n        left = []",
    ),
    Mutant(
        "a trimmed fence is no fence",
        f"{E}.writer:JournalWriter._read_back",
        "if found.start > self._end:",
        "if False:",
    ),
    Mutant(
        "accept a stale epoch",
        f"{E}.core.fold:accepts",
        "decision.epoch == term.epoch and",
        "decision.epoch <= term.epoch and",
    ),
    Mutant(
        "accept a hole in seq",
        f"{E}.core.fold:accepts",
        "decision.seq == term.seq + 1",
        "decision.seq > term.seq",
    ),
    Mutant(
        "accept a second claim of an epoch",
        f"{E}.core.fold:accepts",
        "claim.epoch == term.epoch + 1",
        "claim.epoch in (term.epoch, term.epoch + 1)",
    ),
    Mutant(
        "time out before the backlog is read",
        f"{E}.alarms:Alarms.held_due",
        "if all(position(*where) >= end for where, end in ends.items()):",
        "if ends:",
    ),
    Mutant(
        "forget the ids of ended runs",
        f"{E}.core.partition:Partition.knows",
        "return key in self.runs or any(key in keys for keys in self.ended.values())",
        "return key in self.runs",
    ),
    Mutant(
        "a round forgets who ended meanwhile",
        f"{E}.core.decide.restate:restate",
        "return _id_of_ended(state, key) if run is None else [head_of(run)]",
        "return [] if run is None else [head_of(run)]",
    ),
    Mutant(
        "take a message twice",
        f"{E}.core.decide.messages:message_arrived",
        "if arrived.number != state.taken.get(arrived.source, 0) + 1:",
        "if arrived.number > state.taken.get(arrived.source, 0) + 1:",
    ),
    Mutant(
        "take messages with a gap",
        f"{E}.core.decide.messages:message_arrived",
        "if arrived.number != state.taken.get(arrived.source, 0) + 1:",
        "if arrived.number <= state.taken.get(arrived.source, 0):",
    ),
    Mutant(
        "lose a sleep when restating",
        f"{E}.core.run:head_of",
        "list(run.operations.values())",
        "[o for o in run.operations.values() if o.kind != 'sleep']",
    ),
    Mutant(
        "leave parked runs out of a round",
        f"{E}.core.decide.restate:restate",
        "else [head_of(run)]",
        "else [] if run.parked else [head_of(run)]",
    ),
    Mutant(
        "recover from a round that is not confirmed",
        f"{E}.restating:Restating.round",
        "owner.submit(Entries(finish_round))\n    await owner.settled()",
        "owner.submit(Entries(finish_round))",
    ),
    Mutant(
        "trim beside a round's start",
        f"{E}.restating:Restating._trim",
        "await self._log.trim(JOURNAL, number, self._cut)",
        "await self._log.trim(JOURNAL, number, self._cut + 1)",
    ),
    Mutant(
        "trim the inbox by the state that runs ahead",
        f"{E}.restating:Restating._trim",
        "await self._log.trim(INBOX, number, read)",
        "read = owner.position(INBOX, number) + 1\n    await self._log.trim(INBOX, number, read)",
    ),
    Mutant(
        "trust the last record's fold_from alone",
        f"{E}.ownership:recover",
        "max(bounds.start, last.fold_from)",
        "last.fold_from",
    ),
    Mutant(
        "predict where decisions lie",
        f"{E}.core.places:Places.note",
        "delta, pairs = offset - seq, self.pairs",
        "delta, pairs = offset - seq, self.pairs\n    if pairs: return",
    ),
    Mutant(
        "copy a history to the wrong place",
        f"{E}.restating:Restating._copy_history",
        "HistoryCopied(run.id, first + pieces_made",
        "HistoryCopied(run.id, pieces_made",
    ),
    Mutant(
        "give an event twice",
        f"{E}.core.decide.events:_wake",
        "if run is None or arrived.id in run.received or key in cancelled:",
        "if run is None or key in cancelled:",
    ),
    Mutant(
        "forget read positions",
        f"{E}.owner:Owner._record",
        "for (t, p), (o, part) in self._moved.items()]",
        "for (t, p), (o, part) in self._moved.items() if t == 'inbox']",
    ),
    Mutant(
        "send a message before it is durable",
        f"{E}.owner:Owner._record",
        "self._outgoing.append(decision)",
        "self._outgoing.append(decision)\n    for e in entries:\n"
        "        if isinstance(e, MessageQueued):\n"
        "            to = self._effects.senders.get((state.number, e.destination))\n"
        "            if to: to.confirm(e.number)",
    ),
    Mutant(
        "skip a message",
        f"{E}.senders:Sender._send",
        "self._sent = batch[-1][0]",
        "self._sent = batch[-1][0] + 1",
    ),
    Mutant(
        "do not send again after a recovery",
        f"{E}.tenancy:Tenancy._start",
        "sender.confirm(owner.state.queued.get(destination, 0))",
        "pass",
    ),
    Mutant(
        "start an attempt that runs already",
        "stepfold.attempts:AttemptRunner.start",
        "if known is not None and known.number >= attempt.number:",
        "if False:",
    ),
    Mutant(
        "do not retry what ran when the process died",
        f"{E}.native:_due_attempt",
        "return operation.attempt  #",
        "return 0  #",
    ),
    Mutant(
        "retry a run before its time",
        f"{E}.owner:Owner.may_begin",
        'return self.is_due(run.id, b"", run.waits_until_ms)',
        "return True",
    ),
    Mutant(
        "give outcomes out of order",
        f"{E}.native:Native.start",
        "self.worker.start(brief, facts)",
        "self.worker.start(brief, facts[:1] + facts[:0:-1])",
    ),
    Mutant(
        "fire a timer early",
        f"{E}.alarms:Alarms.due",
        "pop_free(now_ms,",
        "pop_free(now_ms + 50,",
    ),
    Mutant(
        "do not look back for cancellations",
        f"{E}.native:Native._looks_back",
        "run = first.run",
        "return False\n    run = first.run",
    ),
    Mutant(
        "do not look back again after a recovery",
        f"{E}.tenancy:Tenancy._start",
        "house.lookbacks.resume(owner, run)",
        "pass",
    ),
    Mutant(
        "lose a cron when restating",
        f"{E}.core.decide.restate:restate",
        "[CronScheduled(cron.function, cron.cron, cron.due_ms)]",
        "[]",
    ),
    Mutant(
        "fire a cron again after a takeover",
        f"{E}.core.apply:_cron_fired",
        "_file_cron(state, Cron(e.function, e.cron, e.next_ms))",
        "state.timers.add(e.next_ms, timers.CRON, keyed(e.function, e.cron).encode())",
    ),
    Mutant(
        "let the schedule of an unchanged cron begin anew",
        f"{E}.core.decide.crons:schedule_crons",
        "if name in state.crons and name not in wanted:",
        "if name in state.crons:",
    ),
    Mutant(
        "lose a debounce when restating",
        f"{E}.core.decide.restate:restate",
        '[replace(held, superseded="")]',
        "[]",
    ),
    Mutant(
        "forget the timeout of a debounce",
        f"{E}.core.decide.debounces:take",
        "if spec.debounce.timeout_ms:",
        "if False:",
    ),
    Mutant(
        "debounce an event that is sent again, again",
        f"{E}.core.decide.debounces:put_forward",
        "if state.knows(once):",
        "if False:",
    ),
    Mutant(
        "let an older event take the last one's place",
        f"{E}.core.decide.debounces:take",
        "if _time_of(event) < _time_of(holder.event):",
        "if False:",
    ),
    Mutant(
        "end a debounce at its first time",
        f"{E}.core.decide.debounces:debounce_due",
        "if held is None or held.due_ms != due_ms:",
        "if held is None:",
    ),
    Mutant(
        "do not record which side of a change was chosen",
        f"{E}.core.decide.reports:_version",
        "report.draft.add(VersionChosen(report.run.id, item.name, item.chosen))",
        "pass",
    ),
    Mutant(
        "start a run although a copy of its history is being written",
        f"{E}.native:Native._load_whole",
        "if last > through:",
        "if False:",
    ),
    Mutant(
        "let what was given up count if it ends late",
        "stepfold.attempts:Shared.disregard",
        "attempt.state = _State.IGNORED",
        "pass",
        rare=(406450, 423523),
    ),
    Mutant(
        "end a search of the log at what another wait of the run received",
        f"{E}.core.decide.events:found_another",
        "return bool(",
        "return False and bool(",
    ),
    Mutant(
        "ask about a version again while the answer is on its way",
        "stepfold.crew:Crew._begin_again",
        "self._begin(brief, self._histories[run], old.replay.given, answers)",
        "self._begin(brief, self._histories[run], old.replay.given)",
        rare=(440458, 441956),
    ),
    Mutant(
        "skip an event that follows one that is waited for",
        f"{E}.owner:Owner._next_wanted",
        "left = events[number + 1 :]",
        "left = events[number + 2 :]",
    ),
    Mutant(
        "count the attempts of the run that a rerun shares outcomes with",
        f"{E}.core.apply:_rerun_started",
        "run.attempt, run.retry_at_ms = 1, 0",
        "pass",
    ),
    Mutant(
        "give a rerun random numbers of its own",
        f"{E}.native:Native.start",
        "seed=seed,",
        "",
    ),
    Mutant(
        "share the outcome of the step that a rerun is to begin at",
        f"{E}.reruns:share",
        "items = _items(run, facts[:cut])",
        "items = _items(run, facts[: cut + 2])",
    ),
    Mutant(
        "share what has no outcome yet",
        f"{E}.reruns:_is_open",
        "and entry.step not in closed",
        "and False",
    ),
    Mutant(
        "leave out who was kept back during a trial",
        f"{E}.native:Native.go_on",
        "for run in sorted(kept_back):",
        "for run in ():",
    ),
]


def plant(mutant: Mutant) -> None:
    """Change the function, wherever it is known.

    Raises:
        LookupError: the text to be changed is not there.
    """
    module_name, _, path = mutant.where.partition(":")
    module = importlib.import_module(module_name)
    holder: Any = module
    *outer, name = path.split(".")
    for part in outer:
        holder = getattr(holder, part)
    function = getattr(holder, name)
    source = textwrap.dedent(inspect.getsource(function))
    if mutant.old not in source:
        raise LookupError(f"{mutant.name}: {mutant.where} does not hold {mutant.old!r}")
    names: dict[str, Any] = {}
    code = compile(source.replace(mutant.old, mutant.new), module.__file__ or "", "exec")
    exec(code, module.__dict__, names)
    changed = names[name]
    setattr(holder, name, changed)
    if holder is module:
        _spread(function, changed)


def _spread(function: object, changed: object) -> None:
    """Change the function in the modules that have imported it, and in their tables."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("stepfold"):
            continue
        for key, value in list(vars(module).items()):
            if value is function:
                setattr(module, key, changed)
            elif isinstance(value, dict):
                for inner, held in list(value.items()):
                    if held is function:
                        value[inner] = changed


@dataclass(frozen=True)
class Catch:
    """How a mutant was caught.

    Attributes:
        after: how many seeds it took, or which rare one it was; "" if it was not caught.
    """

    mutant: str
    after: str
    promise: str


class HangsError(BaseException):
    """A simulation takes too long."""


def hunt(mutant: Mutant, seeds_max: int = SEEDS_MAX) -> Catch:
    """Plant a bug in this process and simulate until a promise is broken."""

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise HangsError

    signal.signal(signal.SIGALRM, too_long)
    plant(mutant)
    for seed in (*range(seeds_max), *mutant.rare):
        after = f"{seed + 1} seeds" if seed < seeds_max else f"seed {seed}"
        signal.alarm(SECONDS_A_SEED)
        try:
            verdict, _ = simulate(seed)
        except HangsError:
            return Catch(mutant.name, after, "it hangs")
        finally:
            signal.alarm(0)
        if verdict.violations:
            return Catch(mutant.name, after, verdict.violations[0].promise)
    return Catch(mutant.name, "", "")


def main() -> int:
    """Hunt the mutants that are named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="part of a name; all without")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    given = parser.parse_args()
    some = [m for m in MUTANTS if not given.names or any(n in m.name for n in given.names)]
    begun_s = time.monotonic()
    missed = 0
    # Each in a process of its own: what is planted stays.
    with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
        for catch in pool.imap_unordered(hunt, some, chunksize=1):
            missed += not catch.after
            found = f"{catch.after:>11}  {catch.promise}" if catch.after else "  NOT CAUGHT"
            print(f"{catch.mutant:45} {found}", flush=True)
    print(f"{len(some) - missed} of {len(some)} caught in {time.monotonic() - begun_s:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
