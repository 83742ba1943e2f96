"""apply: state + decision → state. Pure and infallible; recovery uses the same function.

An entry for a run that is not known has no effect: during a round of restating its head follows,
and after its end late facts about it mean nothing.
"""

from collections.abc import Callable
from typing import Any

from stepfold_engine.core import timers
from stepfold_engine.core.partition import (
    HOUR_MS,
    REMEMBERED_MS,
    Cron,
    Partition,
    SignalWaiter,
    keyed,
)
from stepfold_engine.core.run import Run, from_head, started
from stepfold_schemas.entries import (
    AttemptStarted,
    CronEnded,
    CronFired,
    CronScheduled,
    DebounceEnded,
    Decision,
    Ended,
    Entry,
    EventDebounced,
    EventMatched,
    FunctionsDeclared,
    FunctionsHeld,
    HistoryRestated,
    IdsRemembered,
    InvokeBegan,
    InvokeCompleted,
    InvokeFailed,
    LookbackFinished,
    MessageQueued,
    MessagesSent,
    MessageTaken,
    Operation,
    OperationsAbandoned,
    PartitionClaimed,
    PartitionReleased,
    PartitionRestated,
    RequestAnswered,
    RerunStarted,
    RoundFinished,
    RunAttemptFailed,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunParked,
    RunRestated,
    RunResumed,
    RunStarted,
    RunStopped,
    SignalFreed,
    SignalHeld,
    SignalReceived,
    SignalWaitBegan,
    SignalWaitEnded,
    SleepBegan,
    SleepEnded,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    SuspectsCleared,
    SuspectsResumed,
    TimerFired,
    TimerSet,
    VersionChosen,
    WaitBegan,
    WaitTimedOut,
)
from stepfold_schemas.ids import RUN_KEY_BYTES, key_of

UNCLEAN_CLAIMS_MAX = 1
"""After more claims than this that followed no clean release, runs are suspected."""


def apply(state: Partition, decision: Decision) -> None:
    """Change the state by an accepted decision."""
    if not (decision.entries and isinstance(decision.entries[0], PartitionClaimed)):
        # A claim takes no number: it was written by who may not have read all before it.
        state.seq = decision.seq
        state.fold_from = decision.fold_from
    for position in decision.positions:
        state.positions[position.topic, position.partition] = (position.offset, position.part)
    for entry in decision.entries:
        handler = _APPLY.get(type(entry))
        if handler is not None:
            handler(state, entry, decision)


def _touch(state: Partition, run: bytes, decision: Decision) -> Run | None:
    """Return a run to change because of this decision, which becomes part of its history."""
    key = key_of(run)
    state_run = state.runs.edit(key)
    if state_run is None:
        return None
    if not state_run.seqs or state_run.seqs[-1] != decision.seq:
        state_run.seqs.append(decision.seq)
    state_run.parked = False
    return state_run


def _got_on(state: Partition, key: bytes) -> None:
    trials = state.trials
    if key not in trials.suspects:
        return
    del trials.suspects[key]
    trials.running.pop(key, None)
    if not trials.running and trials.together:
        trials.width = max(trials.width, trials.together) * 2
        trials.together = 0
    if not trials.suspects:
        trials.unclean = 0
        trials.width = 1


# The partition.


def _claimed(state: Partition, e: PartitionClaimed, _: Decision) -> None:
    same = e.incarnation == state.incarnation
    died = state.epoch > 0 and not state.released and not same
    state.epoch, state.broken, state.released = e.epoch, False, False
    state.node, state.incarnation = e.node, e.incarnation
    if died:
        _suspect(state)


def _suspect(state: Partition) -> None:
    trials = state.trials
    trials.unclean += 1
    if trials.running:
        if trials.together == 1:
            for key in trials.running:
                if (run := state.runs.edit(key)) is not None:
                    run.deaths += 1
        trials.width = max(1, trials.together // 2)
    first = trials.running
    trials.running, trials.together = {}, 0
    if trials.unclean > UNCLEAN_CLAIMS_MAX:
        going = dict.fromkeys(state.runs.active_keys())
        rest = [k for k in going if k not in first]
        trials.suspects = dict.fromkeys([k for k in first if k in going] + rest)


def _released(state: Partition, _e: PartitionReleased, _: Decision) -> None:
    state.released = True
    state.trials.unclean = 0
    state.trials.suspects, state.trials.running = {}, {}
    state.trials.together, state.trials.width = 0, 1


def _resumed_suspects(state: Partition, e: SuspectsResumed, _: Decision) -> None:
    state.trials.running = dict.fromkeys(key_of(run) for run in e.runs)
    state.trials.together = len(e.runs)
    state.trials.width = e.width


def _cleared(state: Partition, e: SuspectsCleared, _: Decision) -> None:
    for run in e.runs:
        if (found := state.runs.edit(key_of(run))) is not None:
            found.deaths = 0
        _got_on(state, key_of(run))


def _restated_partition(state: Partition, e: PartitionRestated, d: Decision) -> None:
    state.round, state.round_open, state.round_at_ms = e.round, True, d.at_ms
    state.round_at_seq = d.seq
    state.rounds = list(e.rounds)
    for position in e.positions:
        state.positions.setdefault(
            (position.topic, position.partition), (position.offset, position.part)
        )
    for counter in e.queued:
        state.queued[counter.partition] = max(
            counter.number, state.queued.get(counter.partition, 0)
        )
    for counter in e.taken:
        state.taken[counter.partition] = max(counter.number, state.taken.get(counter.partition, 0))
    if not state.incarnation:
        state.node, state.incarnation = e.node, e.incarnation
    # In a fold that begins here, only this record's own place is known so far.
    state.places.adopt(((place.seq, place.delta) for place in e.places), d.seq)
    if not state.trials.suspects:
        state.trials.unclean = max(state.trials.unclean, e.unclean)
        state.trials.width = e.width
    _forget(state, d.at_ms)


def _forget(state: Partition, now_ms: int) -> None:
    """Drop what was remembered for a day."""
    before = now_ms - REMEMBERED_MS
    for hour in [h for h in state.ended if (h + 1) * HOUR_MS < before]:
        del state.ended[hour]
    for request in [r for r, a in state.requests.items() if a.at_ms < before]:
        del state.requests[request]


def _round_finished(state: Partition, _e: RoundFinished, _: Decision) -> None:
    state.round_open = False


def _declared(state: Partition, e: FunctionsDeclared, _: Decision) -> None:
    current = state.declarations.get(e.app)
    if current is None or e.number > current.number:
        state.declare(e)


def _functions_held(state: Partition, e: FunctionsHeld, _: Decision) -> None:
    declaration = state.declarations.get(e.app)
    if declaration is not None and declaration.number == e.number:
        declaration.request = e.request
        declaration.held_by = sorted({*declaration.held_by, *e.partitions})


def _answered(state: Partition, e: RequestAnswered, _: Decision) -> None:
    state.requests[e.request] = e


def _queued(state: Partition, e: MessageQueued, _: Decision) -> None:
    state.queued[e.destination] = max(e.number, state.queued.get(e.destination, 0))
    state.unsent.setdefault(e.destination, {})[e.number] = e.message


def _sent(state: Partition, e: MessagesSent, _: Decision) -> None:
    unsent = state.unsent.get(e.destination, {})
    for number in [n for n in unsent if n <= e.through]:
        del unsent[number]


def _taken(state: Partition, e: MessageTaken, _: Decision) -> None:
    state.taken[e.source] = e.number
    if e.source == state.number:
        state.unsent.get(e.source, {}).pop(e.number, None)


def _ids_remembered(state: Partition, e: IdsRemembered, _: Decision) -> None:
    keys = state.ended.setdefault(e.hour, set())
    keys.update(e.keys[i : i + RUN_KEY_BYTES] for i in range(0, len(e.keys), RUN_KEY_BYTES))


def _signal_held(state: Partition, e: SignalHeld, _: Decision) -> None:
    waiter = SignalWaiter(e.run, e.step, e.due_ms)
    old = state.signals.get(e.signal)
    if old == waiter:
        return
    if old is not None:
        state.timers.cancel(old.due_ms, b"", e.signal.encode())
    state.signals[e.signal] = waiter
    state.timers.add_held(e.due_ms, b"", e.signal.encode())


def _signal_freed(state: Partition, e: SignalFreed, _: Decision) -> None:
    waiter = state.signals.pop(e.signal, None)
    if waiter is not None:
        state.timers.cancel(waiter.due_ms, b"", e.signal.encode())


def _cron_scheduled(state: Partition, e: CronScheduled, _: Decision) -> None:
    _file_cron(state, Cron(e.function, e.cron, e.due_ms))


def _cron_fired(state: Partition, e: CronFired, _: Decision) -> None:
    if e.next_ms:
        _file_cron(state, Cron(e.function, e.cron, e.next_ms))
    else:
        state.crons.pop(keyed(e.function, e.cron), None)


def _file_cron(state: Partition, cron: Cron) -> None:
    name = keyed(cron.function, cron.cron)
    if state.crons.get(name) != cron:
        state.crons[name] = cron
        state.timers.add(cron.due_ms, timers.CRON, name.encode())


def _cron_ended(state: Partition, e: CronEnded, _: Decision) -> None:
    name = keyed(e.function, e.cron)
    cron = state.crons.pop(name, None)
    if cron is not None:
        state.timers.cancel(cron.due_ms, timers.CRON, name.encode())


def _debounced(state: Partition, e: EventDebounced, _: Decision) -> None:
    name = keyed(e.function, e.key)
    known = state.debounces.get(name)
    state.debounces[name] = e
    if known is None or known.due_ms != e.due_ms:
        if known is not None:
            state.timers.cancel(known.due_ms, timers.DEBOUNCE, name.encode())
        state.timers.add_held(e.due_ms, timers.DEBOUNCE, name.encode())


def _debounce_ended(state: Partition, e: DebounceEnded, _: Decision) -> None:
    name = keyed(e.function, e.key)
    known = state.debounces.pop(name, None)
    if known is not None:
        state.timers.cancel(known.due_ms, timers.DEBOUNCE, name.encode())


# The run.


def _run_started(state: Partition, e: RunStarted, d: Decision) -> None:
    run = started(e, d.at_ms)
    run.seqs.append(d.seq)
    _file(state, run)


def _run_restated(state: Partition, e: RunRestated, _: Decision) -> None:
    if key_of(e.run) not in state.runs:
        _file(state, from_head(e))


def _file(state: Partition, run: Run) -> None:
    """Enter a run into the table, its waits into the index and its times among the timers."""
    key = key_of(run.id)
    state.runs.put(run)
    if run.due_ms:
        state.timers.add(run.due_ms, key, timers.RUN_DUE)
    if run.retry_at_ms:
        state.timers.add(run.retry_at_ms, key, timers.RUN_RETRY)
    if run.start_by_ms and not run.begun:
        state.timers.add(run.start_by_ms, key, timers.RUN_START_BY)
    if run.finish_by_ms:
        state.timers.add(run.finish_by_ms, key, timers.RUN_FINISH_BY)
    for cancellation in run.cancellations:
        state.waits.add(cancellation.condition, (key, b""))
    for operation in run.operations.values():
        _file_operation(state, key, operation)


def _file_operation(state: Partition, key: bytes, operation: Operation) -> None:
    if operation.condition is not None:
        state.waits.add(operation.condition, (key, operation.step))
        state.timers.add_held(operation.due_ms, key, operation.step)
    elif operation.kind == "signal":
        # The signal's home decides its timeout, unless another run replaced this waiter.
        if not operation.target:
            state.timers.add_held(operation.due_ms, key, operation.step)
    elif operation.kind != "running":
        state.timers.add(operation.due_ms, key, operation.step)


def _begin(state: Partition, run: bytes, operation: Operation, decision: Decision) -> None:
    found = _touch(state, run, decision)
    if found is not None:
        found.begun = True
        found.operations[operation.step] = operation
        _file_operation(state, key_of(run), operation)
        _got_on(state, key_of(run))


def _drop_operation(state: Partition, run: Run, step: bytes) -> None:
    operation = run.operations.pop(step, None)
    if operation is not None:
        _take_out(state, key_of(run.id), operation)


def _take_out(state: Partition, key: bytes, operation: Operation) -> None:
    """Take an operation's wait out of the index, and its time out of the timers."""
    if operation.condition is not None:
        state.waits.remove(operation.condition, (key, operation.step))
    state.timers.cancel(operation.due_ms, key, operation.step)


def _finish(state: Partition, e: Ended, d: Decision) -> None:
    run = _touch(state, e.run, d)
    if run is None:
        return
    _drop_operation(state, run, e.step)
    run.done.add(e.step)
    run.begun = True
    if isinstance(e, StepCompleted | SignalReceived | InvokeCompleted):
        run.state_bytes += len(e.data)
    _got_on(state, key_of(e.run))


def _attempt_started(state: Partition, e: AttemptStarted, d: Decision) -> None:
    run = _touch(state, e.run, d)
    if run is None:
        return
    run.begun = True
    if e.step:
        run.operations[e.step] = Operation(e.step, "running", e.name, attempt=e.attempt)


def _attempt_failed(state: Partition, e: StepAttemptFailed, d: Decision) -> None:
    operation = Operation(e.step, "step", e.name, attempt=e.attempt, due_ms=e.retry_at_ms)
    _begin(state, e.run, operation, d)


def _sleep_began(state: Partition, e: SleepBegan, d: Decision) -> None:
    _begin(state, e.run, Operation(e.step, "sleep", e.name, due_ms=e.due_ms), d)


def _timer_set(state: Partition, e: TimerSet, d: Decision) -> None:
    _begin(state, e.run, Operation(e.step, "timer", e.name, due_ms=e.due_ms), d)


def _wait_began(state: Partition, e: WaitBegan, d: Decision) -> None:
    operation = Operation(
        e.step,
        "wait",
        e.name,
        due_ms=e.due_ms,
        condition=e.condition,
        since_ms=e.since_ms,
        held=e.since_ms > 0,
    )
    _begin(state, e.run, operation, d)


def _lookback_finished(state: Partition, e: LookbackFinished, d: Decision) -> None:
    run = state.runs.edit(key_of(e.run))
    if run is None or e.step not in run.operations:
        return
    old = run.operations[e.step]
    run.operations[e.step] = Operation(
        old.step,
        old.kind,
        old.name,
        due_ms=old.due_ms,
        condition=old.condition,
        since_ms=old.since_ms,
    )
    state.timers.add_held(old.due_ms, key_of(e.run), e.step)
    _put_back(state, run, d)


def _put_back(state: Partition, run: Run, _: Decision) -> None:
    """Pack a run again after a change that its code does not see."""
    if run.parked or run.stopped:
        state.runs.put(run)


def _event_matched(state: Partition, e: EventMatched, d: Decision) -> None:
    for ref in e.waits:
        run = _touch(state, ref.run, d)
        if run is None:
            continue
        _drop_operation(state, run, ref.step)
        run.done.add(ref.step)
        run.received.append(e.event_id)
        run.state_bytes += len(e.event)
        _got_on(state, key_of(ref.run))


def _signal_wait_began(state: Partition, e: SignalWaitBegan, d: Decision) -> None:
    operation = Operation(e.step, "signal", e.name, due_ms=e.due_ms, target=e.signal)
    _begin(state, e.run, operation, d)


def _signal_wait_ended(state: Partition, e: SignalWaitEnded, d: Decision) -> None:
    if e.reason != "replaced":
        run = _touch(state, e.run, d)
        if run is not None:
            _drop_operation(state, run, e.step)
            run.done.add(e.step)
            _got_on(state, key_of(e.run))
        return
    run = state.runs.edit(key_of(e.run))
    if run is None or e.step not in run.operations:
        return
    old = run.operations[e.step]
    run.operations[e.step] = Operation(old.step, old.kind, old.name, due_ms=old.due_ms)
    _file_operation(state, key_of(e.run), run.operations[e.step])
    _put_back(state, run, d)


def _invoke_began(state: Partition, e: InvokeBegan, d: Decision) -> None:
    operation = Operation(e.step, "invoke", e.name, due_ms=e.due_ms, target=e.function)
    _begin(state, e.run, operation, d)


def _abandoned(state: Partition, e: OperationsAbandoned, d: Decision) -> None:
    run = _touch(state, e.run, d)
    if run is not None:
        for step in e.steps:
            _drop_operation(state, run, step)
            run.done.add(step)
        _got_on(state, key_of(e.run))


def _parked(state: Partition, e: RunParked, _: Decision) -> None:
    run = state.runs.edit(key_of(e.run))
    if run is not None:
        run.parked = True
        state.runs.put(run)
        _got_on(state, key_of(e.run))


def _run_attempt_failed(state: Partition, e: RunAttemptFailed, d: Decision) -> None:
    run = _touch(state, e.run, d)
    if run is not None:
        run.begun = True
        run.attempt = e.attempt + 1
        run.retry_at_ms = e.retry_at_ms
        state.timers.add(e.retry_at_ms, key_of(e.run), timers.RUN_RETRY)
        _got_on(state, key_of(e.run))


def _ended(state: Partition, e: RunCompleted | RunFailed | RunCancelled, d: Decision) -> None:
    key = key_of(e.run)
    run = state.runs.get(key)
    if run is None:
        return
    for operation in run.operations.values():
        _take_out(state, key, operation)
    for cancellation in run.cancellations:
        state.waits.remove(cancellation.condition, (key, b""))
    for due_ms, what in (
        (run.due_ms, timers.RUN_DUE),
        (run.retry_at_ms, timers.RUN_RETRY),
        (run.start_by_ms, timers.RUN_START_BY),
        (run.finish_by_ms, timers.RUN_FINISH_BY),
    ):
        state.timers.cancel(due_ms, key, what)
    state.runs.remove(key)
    if run.remembered:
        state.ended.setdefault(d.at_ms // HOUR_MS, set()).add(key)
    _got_on(state, key)


def _stopped(state: Partition, e: RunStopped, d: Decision) -> None:
    run = _touch(state, e.run, d)
    if run is not None:
        run.stopped = True
        state.runs.put(run)
        _got_on(state, key_of(e.run))


def _run_resumed(state: Partition, e: RunResumed, d: Decision) -> None:
    run = _touch(state, e.run, d)
    if run is not None:
        run.stopped = False


def _rerun_started(state: Partition, e: RerunStarted, d: Decision) -> None:
    """The failed attempts of the run that it shares outcomes with do not count for this one."""
    run = _touch(state, e.run, d)
    if run is not None:
        run.attempt, run.retry_at_ms = 1, 0


def _version_chosen(state: Partition, e: VersionChosen, d: Decision) -> None:
    run = _touch(state, e.run, d)
    if run is not None:
        run.begun = True
        _got_on(state, key_of(e.run))


def _history_restated(state: Partition, e: HistoryRestated, d: Decision) -> None:
    run = state.runs.edit(key_of(e.run))
    if run is not None:
        after = e.skips + e.replaces
        run.seqs = [*run.seqs[: e.skips], d.seq, *run.seqs[after:]]
        _put_back(state, run, d)


_APPLY: dict[type[Entry], Callable[[Partition, Any, Decision], None]] = {
    PartitionClaimed: _claimed,
    PartitionReleased: _released,
    PartitionRestated: _restated_partition,
    RoundFinished: _round_finished,
    FunctionsDeclared: _declared,
    FunctionsHeld: _functions_held,
    RequestAnswered: _answered,
    MessageQueued: _queued,
    MessagesSent: _sent,
    MessageTaken: _taken,
    IdsRemembered: _ids_remembered,
    SuspectsResumed: _resumed_suspects,
    SuspectsCleared: _cleared,
    SignalHeld: _signal_held,
    SignalFreed: _signal_freed,
    CronScheduled: _cron_scheduled,
    CronFired: _cron_fired,
    CronEnded: _cron_ended,
    EventDebounced: _debounced,
    DebounceEnded: _debounce_ended,
    EventMatched: _event_matched,
    RunStarted: _run_started,
    RunRestated: _run_restated,
    HistoryRestated: _history_restated,
    AttemptStarted: _attempt_started,
    StepCompleted: _finish,
    StepFailed: _finish,
    StepAttemptFailed: _attempt_failed,
    SleepBegan: _sleep_began,
    SleepEnded: _finish,
    TimerSet: _timer_set,
    TimerFired: _finish,
    WaitBegan: _wait_began,
    LookbackFinished: _lookback_finished,
    WaitTimedOut: _finish,
    SignalWaitBegan: _signal_wait_began,
    SignalReceived: _finish,
    SignalWaitEnded: _signal_wait_ended,
    InvokeBegan: _invoke_began,
    InvokeCompleted: _finish,
    InvokeFailed: _finish,
    OperationsAbandoned: _abandoned,
    RunParked: _parked,
    RunAttemptFailed: _run_attempt_failed,
    RunCompleted: _ended,
    RunFailed: _ended,
    RunCancelled: _ended,
    RunStopped: _stopped,
    RunResumed: _run_resumed,
    RerunStarted: _rerun_started,
    VersionChosen: _version_chosen,
}
