"""The auditor finds nothing in healthy ledgers, and in each falsified one what was falsified."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Condition,
    EventMatched,
    HistoryRestated,
    InvokeCompleted,
    Invoker,
    MessageQueued,
    MessageTaken,
    RoundFinished,
    RunCancelled,
    RunCompleted,
    RunParked,
    RunRestated,
    RunStarted,
    RunStopped,
    SignalHeld,
    SignalReceived,
    SleepBegan,
    StepAttemptFailed,
    StepCompleted,
    Term,
    TimerSet,
    WaitBegan,
)
from stepfold_schemas.ids import ulid_text
from tests.behaviour.scenario import Variant
from tests.simulation.audit import findings
from tests.simulation.audit.conditions import holds, meets, names
from tests.simulation.auditor import Setup, audit
from tests.simulation.doctor import Doctor, RecordedScenario, data_of
from tests.simulation.ledger import Ledger, Seen, Told, Trimmed, Written
from tests.simulation.statements import (
    FunctionPlan,
    Invoke,
    Parallel,
    Pause,
    Plan,
    Raise,
    SendEvent,
    Sleep,
    Step,
    Try,
    WaitEvent,
    WaitSignal,
)

PARTITIONS = 2

PLAN = Plan(
    7,
    (
        FunctionPlan(
            "order",
            (
                Step("pay"),
                Step("pack", fails=1, retries=2),
                Parallel("gather", ((Sleep("nap", 5),), (Step("label", takes_s=1),))),
                WaitEvent("paid", "ev/paid", 100, match="data.k"),
                SendEvent("tell", "ev/told"),
                Invoke("call", "child"),
                WaitSignal("approve", "k", 100),
            ),
            on=("go/order",),
            retries=1,
        ),
        FunctionPlan("child", (Step("work"), Pause(2)), retries=0),
        FunctionPlan(
            "broken",
            (Step("burn"), Raise(99, "final")),
            on=("go/broken",),
            failure=(Step("mourn"),),
        ),
        FunctionPlan("doomed", (Raise(99, "final"),), on=("go/broken",)),
        FunctionPlan(
            "late",
            (
                Try((Step("bad", fails=99, how="final"),), (Step("mend"),)),
                WaitEvent("never", "ev/never", 10, if_="async.data.k == event.data.k"),
                WaitEvent("back", "ev/told", 10, since="run"),
            ),
            on=("go/late", "go/late.*"),
        ),
        FunctionPlan("long", (Sleep("month", 1000),), on=("go/long",), cancel_on="ev/stop"),
        FunctionPlan("unique", (Step("once"),), on=("go/unique",), idempotency="data.k"),
    ),
    (),
    60.0,
)


def settled(s: RecordedScenario) -> Ledger:
    """Wait until all is done and noted."""
    s.advance(2_000)
    return s.ledger


def play(s: RecordedScenario, interrupt: Callable[[], None] = lambda: None) -> Ledger:
    """Live a life in which everything happens once; it is disturbed while bodies run."""
    s.start()
    for k in range(3):
        s.publish("go/order", f"o{k + 1}", k=k, n=5)
    s.publish("go/broken", "b1", k=0)
    s.publish("go/late", "l1", k=3)
    s.publish("go/long", "m1", k=0)
    s.publish("go/unique", "u1", k=1)
    s.publish("go/unique", "u2", k=1)
    s.publish("go/unique", "u3", k=2)
    s.advance(1.2)
    interrupt()
    s.advance(1.8)
    s.publish("ev/never", "noise", k=8)
    s.advance(12)
    s.publish("ev/paid", "decoy", k=9)
    s.advance(5)
    for k in range(3):
        s.publish("ev/paid", f"p{k}", k=k)
    s.advance(20)
    s.publish("go/order", "o1", k=0, n=5)
    for k in range(3):
        s.signal_to(f"sig/k{k}", {"ok": k})
    s.signal_to("sig/nobody", None)
    s.publish("ev/stop", "s1")
    s.advance(1)
    s.publish("go/long", "m2", k=0)
    s.advance(5)
    s.cancel(s.of("long")[-1].text)
    return settled(s)


def restart(s: RecordedScenario) -> Callable[[], None]:
    return s.restart


def takeover(s: RecordedScenario) -> Callable[[], None]:
    return s.takeover


def nothing(s: RecordedScenario) -> Callable[[], None]:
    return lambda: None


@pytest.mark.parametrize("disturbed", [nothing, restart, takeover])
@pytest.mark.parametrize("replay", [False, True], ids=["hot", "replay"])
@pytest.mark.parametrize(("partitions", "round_records"), [(1, 10_000), (3, 20)])
def test_a_healthy_ledger_shows_no_violation(
    partitions: int,
    round_records: int,
    replay: bool,
    disturbed: Callable[[RecordedScenario], Callable[[], None]],
    tmp_path: Path,
) -> None:
    variant = Variant("memory", replay, partitions)
    s = RecordedScenario(
        PLAN, variant, tmp_path, round_records_min=round_records, journal_keep_ms=0
    )
    try:
        ledger = play(s, disturbed(s))
    finally:
        s.close()
    assert audit(ledger, Setup(partitions), PLAN) == []


def recorded(**settings: Any) -> Ledger:
    """Return the ledger of a process that was killed once."""
    variant = Variant("memory", replay=False, partitions=PARTITIONS)
    s = RecordedScenario(PLAN, variant, Path(), **settings)
    try:
        return play(s, restart(s))
    finally:
        s.close()


@pytest.fixture(scope="module")
def plain() -> Ledger:
    return recorded()


@pytest.fixture(scope="module")
def restated() -> Ledger:
    """A ledger with rounds and trims."""
    return recorded(round_records_min=20, journal_keep_ms=0)


def named(name: str) -> Callable[[Any], bool]:
    """Return a test for entries of steps of this name."""
    return lambda entry: entry.name == name


def seen(what: str, step: str = "") -> Callable[[Seen], bool]:
    return lambda one: (one.what, one.step) == (what, step)


def run_of(doctor: Doctor, function: str, event: str = "") -> RunStarted:
    """Return the start of the first run of a function, or of the one that an event started."""
    return doctor.entry(
        RunStarted,
        lambda e: e.function == f"sim-{function}" and (not event or e.event_ids == [event]),
    )


# Each of these breaks one promise, and no other.

Falsify = Callable[[Doctor], None]


def an_event_starts_no_run(d: Doctor) -> None:
    d.change_event("noise", name="go/late")


def an_event_starts_no_run_of_a_function_with_a_pattern(d: Doctor) -> None:
    d.change_event("noise", name="go/late.again")


def an_event_starts_two_runs(d: Doctor) -> None:
    first = run_of(d, "order", "o1")
    raw = d.change_event("o3", id="o1")
    d.edit(RunStarted, lambda e: e.event_ids == ["o3"], events=[raw], event_ids=first.event_ids)


def a_key_starts_two_runs(d: Doctor) -> None:
    raw = d.change_event("u3", data=data_of(k=1))
    d.edit(RunStarted, lambda e: e.event_ids == ["u3"], events=[raw])


def a_key_starts_no_run(d: Doctor) -> None:
    d.change_event("u2", data=data_of(k=77))


def a_run_starts_without_an_event(d: Doctor) -> None:
    event = replace(codec.decode_event(run_of(d, "order").events[0]), data=b"{}")
    d.edit(RunStarted, lambda e: e.function == "sim-order", events=[codec.encode(event)])


def a_run_is_invoked_by_nobody(d: Doctor) -> None:
    start, child = run_of(d, "late"), run_of(d, "child")
    d.edit(RunStarted, lambda e: e.run == start.run, invoker=Invoker(child.run, b"step"))


def a_run_is_cancelled_for_no_cause(d: Doctor) -> None:
    d.edit(RunCancelled, lambda e: e.run == run_of(d, "long", "m1").run, reason="just so")


def a_run_is_cancelled_by_an_event_that_does_not_mean_it(d: Doctor) -> None:
    d.edit(RunCancelled, lambda e: e.run == run_of(d, "long", "m2").run, reason="event ev/paid")


def a_run_has_an_id_of_another_time(d: Doctor) -> None:
    started, _ = d.find(RunStarted, lambda e: e.function == "sim-broken")
    d.rewrite(started, at_ms=d.decision(started).at_ms - 1)


def a_step_has_two_outcomes(d: Doctor) -> None:
    d.duplicate(StepCompleted, named("mourn"))


def an_attempt_that_was_over_has_an_outcome(d: Doctor) -> None:
    d.edit(StepCompleted, named("tell"), attempt=3)


def a_sleep_ends_that_never_began(d: Doctor) -> None:
    began, place = d.find(SleepBegan, named("nap"))
    nap = d.entry(SleepBegan, named("nap"))
    entries = list(d.decision(began).entries)
    entries[place] = TimerSet(nap.run, nap.step, nap.name, nap.due_ms)
    d.rewrite(began, entries=entries)


def a_run_ends_twice(d: Doctor) -> None:
    d.duplicate(RunCompleted)


def something_happens_to_an_ended_run(d: Doctor) -> None:
    end, _ = d.find(RunCompleted)
    run = d.entry(RunCompleted).run
    d.rewrite(end, entries=[*d.decision(end).entries, RunParked(run)])


def code_sees_another_outcome(d: Doctor) -> None:
    d.change(Seen, seen("outcome", "mourn"), value="99")


def code_sees_an_outcome_that_is_not_durable(d: Doctor) -> None:
    outcome, _ = d.find(StepCompleted, named("mourn"))
    d.move(d.index(Seen, seen("outcome", "mourn")), outcome)


def code_sees_an_outcome_that_is_recorded_nowhere(d: Doctor) -> None:
    d.change(Seen, seen("outcome", "mourn"), step="mourn:1")


def another_value_is_recorded_than_the_body_returned(d: Doctor) -> None:
    d.change(Seen, seen("body-ended", "pay"), value="99")


def a_body_begins_before_its_run_is_durable(d: Doctor) -> None:
    run = run_of(d, "broken").run
    started, _ = d.find(RunStarted, lambda e: e.run == run)
    d.move(d.index(Seen, seen("body-began", "burn")), started)


def a_retry_begins_before_the_failure_is_durable(d: Doctor) -> None:
    failed, _ = d.find(StepAttemptFailed)
    fits = lambda s: s.what == "body-began" and s.attempt == 2  # noqa: E731
    again = d.at(d.index(Seen, fits))
    d.insert(failed, replace(again, at_ms=again.at_ms + 60_000))


def a_body_runs_again_without_a_cause(d: Doctor) -> None:
    began = d.index(Seen, seen("body-began", "burn"))
    d.insert(began, d.at(began))


def a_body_begins_though_its_outcome_is_known(d: Doctor) -> None:
    began, ended = (d.index(Seen, seen(what, "mourn")) for what in ("body-began", "outcome"))
    d.insert(ended, d.at(began))


def replayed_code_sees_outcomes_in_another_order(d: Doctor) -> None:
    first = d.index(Seen, lambda s: s.process == "p.2" and s.what == "outcome" and s.step == "pay")
    run = d.at(first).run
    second = d.index(Seen, lambda s: s.process == "p.2" and s.run == run and s.step == "pack")
    one, other = d.at(first), d.at(second)
    d.put(first, other)
    d.put(second, one)


def a_wait_misses_an_event(d: Doctor) -> None:
    d.change_event("decoy", data=data_of(k=0))


def a_wait_that_timed_out_misses_an_event(d: Doctor) -> None:
    d.change_event("noise", data=data_of(k=3))


def a_wait_gets_an_event_that_it_does_not_mean(d: Doctor) -> None:
    wait = d.entry(WaitBegan, named("paid"))
    terms = [Term("data.k", "55")]
    d.edit(WaitBegan, lambda e: e == wait, condition=replace(wait.condition, terms=terms))


def a_wait_gets_an_event_that_was_read_before(d: Doctor) -> None:
    run = d.entry(EventMatched, lambda e: e.event_id == "p0").waits[0].run
    wait = d.entry(WaitBegan, lambda e: e.run == run)
    d.delete(WaitBegan, lambda e: e == wait)
    matched, _ = d.find(EventMatched, lambda e: e.event_id == "p0")
    d.rewrite(matched, entries=[wait, *d.decision(matched).entries])


def a_look_back_misses_an_event(d: Doctor) -> None:
    run = run_of(d, "late").run
    fits = lambda e: e.run == run and e.name == "back"  # noqa: E731
    wait = d.entry(WaitBegan, fits)
    d.edit(WaitBegan, fits, condition=replace(wait.condition, event="ev/paid"))


def a_cancellation_is_missed(d: Doctor) -> None:
    d.change_event("noise", name="ev/stop")


def a_wait_times_out_early(d: Doctor) -> None:
    never = d.entry(WaitBegan, named("never"))
    d.edit(WaitBegan, named("never"), due_ms=never.due_ms + 60_000)


def a_sleep_ends_early(d: Doctor) -> None:
    nap = d.entry(SleepBegan, named("nap"))
    d.edit(SleepBegan, named("nap"), due_ms=nap.due_ms + 60_000)


def a_timer_fires_early(d: Doctor) -> None:
    timer = d.entry(TimerSet)
    d.edit(TimerSet, due_ms=timer.due_ms + 60_000)


def a_retry_begins_early(d: Doctor) -> None:
    failed = d.entry(StepAttemptFailed)
    d.edit(StepAttemptFailed, retry_at_ms=failed.retry_at_ms + 60_000)


def an_invoker_hears_another_result(d: Doctor) -> None:
    heard = d.entry(InvokeCompleted)
    data = json.loads(heard.data) | {"seen": []}
    d.edit(InvokeCompleted, data=json.dumps(data).encode())


def an_invocation_starts_two_runs(d: Doctor) -> None:
    one, other, _ = (e for e in d.entries(RunStarted) if e.function == "sim-child")
    d.edit(RunStarted, lambda e: e.run == other.run, invoker=one.invoker)


def a_failure_is_not_handled(d: Doctor) -> None:
    d.edit(RunStarted, lambda e: e.function == "sim-doomed", on_failure="sim-child")


def a_signal_is_received_that_was_not_sent(d: Doctor) -> None:
    received = d.entry(SignalReceived)
    d.edit(SignalReceived, data=b'{"no":1}')
    run = ulid_text(received.run)
    fits = lambda s: (s.run, s.what, s.step) == (run, "outcome", "approve")  # noqa: E731
    d.change(Seen, fits, value='{"no":1}')


def a_signal_has_two_waiters(d: Doctor) -> None:
    one, other = d.entries(SignalHeld)[:2]
    at, _ = d.find(SignalHeld, lambda e: e == one)
    d.add(at, replace(other, signal=one.signal))


def a_caller_is_told_of_an_event_that_is_not_there(d: Doctor) -> None:
    d.change(Told, lambda t: t.what == "published", name="01MCC5RNG500EC3D2MMBHQ7T0G")


def a_caller_is_told_of_a_cancellation_that_is_not_there(d: Doctor) -> None:
    run = ulid_text(run_of(d, "late").run)
    d.change(Told, lambda t: t.what == "cancelled", name=run)


def a_caller_is_told_twice_that_a_signal_arrived(d: Doctor) -> None:
    told = d.index(Told, lambda t: t.what == "signalled" and bool(t.value))
    d.append(d.at(told))


def a_message_is_skipped(d: Doctor) -> None:
    taken = d.entry(MessageTaken, lambda e: e.number == 2)
    d.edit(MessageTaken, lambda e: e == taken, number=1)


def a_message_number_is_used_twice(d: Doctor) -> None:
    first = d.entry(MessageQueued, lambda e: e.number == 1)
    second = d.entry(MessageQueued, lambda e: e.number == 2 and e.destination == first.destination)
    assert first.message != second.message
    at, _ = d.find(MessageQueued, lambda e: e == first)
    d.rewrite(at, entries=[*d.decision(at).entries, replace(first, message=second.message)])


def a_letter_is_sent_before_it_is_durable(d: Doctor) -> None:
    letter = d.index(
        Written, lambda w: w.topic == "inbox" and codec.decode_letter(w.value).source >= 0
    )
    d.move(letter, 0)


def an_event_is_read_before_it_is_durable(d: Doctor) -> None:
    at = d.index(Written, lambda w: w.topic == "events" and w.key == b"m2")
    started, _ = d.find(RunStarted, lambda e: e.event_ids == ["m2"])
    d.move(at, started)


def a_position_moves_back(d: Doctor) -> None:
    move_inbox(d, reads_of_inbox(d)[1], -100)


def a_position_lies_beyond_the_end(d: Doctor) -> None:
    move_inbox(d, reads_of_inbox(d)[-1], 1)


def reads_of_inbox(d: Doctor) -> list[int]:
    """Return where the records are that say that letters for partition 1 were read."""
    return [
        at
        for at in d.records()
        if any((p.topic, p.partition) == ("inbox", 1) for p in d.decision(at).positions)
    ]


def move_inbox(d: Doctor, at: int, by: int) -> None:
    """Let a record say another read position in the inbox."""
    positions = [
        replace(p, offset=p.offset + by) if p.topic == "inbox" else p
        for p in d.decision(at).positions
    ]
    d.rewrite(at, positions=positions)


def a_journal_is_trimmed_where_no_round_begins(d: Doctor) -> None:
    trim = d.index(Trimmed, lambda t: t.topic == "journal")
    d.put(trim, replace(d.at(trim), before=d.at(trim).before - 1))


def a_journal_is_trimmed_before_recovery_may_begin_there(d: Doctor) -> None:
    trim = d.index(Trimmed, lambda t: t.topic == "journal")
    finished, _ = d.find(RoundFinished)
    d.move(trim, finished + 1)


def an_inbox_is_trimmed_before_it_is_read(d: Doctor) -> None:
    trim = d.index(Trimmed, lambda t: t.topic == "inbox")
    d.put(trim, replace(d.at(trim), before=d.at(trim).before + 1))


def events_are_trimmed_before_all_have_read_them(d: Doctor) -> None:
    at = d.index(Written, lambda w: w.topic == "events" and w.key == b"p0")
    w = d.at(at)
    d.insert(at + 1, Trimmed(0, "events", w.partition, w.offset + 1))


def recovery_would_begin_where_no_round_does(d: Doctor) -> None:
    at, _ = d.find(SignalReceived)
    d.rewrite(at, fold_from=d.decision(at).fold_from + 1)


def a_round_leaves_out_a_run(d: Doctor) -> None:
    d.delete(RunRestated)


def a_head_says_that_outcomes_lie_elsewhere(d: Doctor) -> None:
    head = d.entry(RunRestated)
    d.edit(RunRestated, seqs=[*head.seqs, 1])


def a_copy_of_a_history_leaves_out_an_entry(d: Doctor) -> None:
    copy = d.entry(HistoryRestated)
    d.edit(HistoryRestated, items=copy.items[1:])


def a_record_is_by_another_process(d: Doctor) -> None:
    at, _ = d.find(SleepBegan)
    d.put(at, replace(d.at(at), by="somebody"))


def a_record_cannot_be_read(d: Doctor) -> None:
    last = d.records()[-1]
    d.append(replace(d.at(last), offset=d.at(last).offset + 1, value=b"?"))


def a_clock_is_ahead(d: Doctor) -> None:
    at, _ = d.find(SleepBegan)
    d.put(at, replace(d.at(at), at_ms=d.at(at).at_ms - 500))


def a_run_never_ends(d: Doctor) -> None:
    d.delete(RunCompleted)


def a_run_is_stopped(d: Doctor) -> None:
    at, _ = d.find(SleepBegan)
    d.add(at, RunStopped(d.entry(SleepBegan).run, b'{"reason":"damaged"}'))


def a_run_returns_what_does_not_follow_from_its_outcomes(d: Doctor) -> None:
    end = d.entry(RunCompleted)
    d.edit(RunCompleted, data=b"1")
    run = ulid_text(end.run)
    d.change(Seen, lambda s: (s.run, s.what) == (run, "returned"), value="1")


FALSIFIED: dict[str, list[Falsify]] = {
    findings.EVENT_ONCE: [
        an_event_starts_no_run,
        an_event_starts_no_run_of_a_function_with_a_pattern,
        an_event_starts_two_runs,
        a_key_starts_two_runs,
        a_key_starts_no_run,
    ],
    findings.CAUSE: [
        a_run_starts_without_an_event,
        a_run_is_invoked_by_nobody,
        a_run_is_cancelled_for_no_cause,
        a_run_is_cancelled_by_an_event_that_does_not_mean_it,
        a_run_has_an_id_of_another_time,
    ],
    findings.OUTCOME_ONCE: [
        a_step_has_two_outcomes,
        an_attempt_that_was_over_has_an_outcome,
        a_sleep_ends_that_never_began,
    ],
    findings.END_ONCE: [a_run_ends_twice, something_happens_to_an_ended_run],
    findings.SEEN_IS_RECORDED: [
        code_sees_another_outcome,
        code_sees_an_outcome_that_is_not_durable,
        code_sees_an_outcome_that_is_recorded_nowhere,
        another_value_is_recorded_than_the_body_returned,
        a_body_begins_before_its_run_is_durable,
        a_retry_begins_before_the_failure_is_durable,
    ],
    findings.BODY_ONCE: [
        a_body_runs_again_without_a_cause,
        a_body_begins_though_its_outcome_is_known,
    ],
    findings.REPLAY: [replayed_code_sees_outcomes_in_another_order],
    findings.WAIT: [
        a_wait_misses_an_event,
        a_wait_that_timed_out_misses_an_event,
        a_wait_gets_an_event_that_it_does_not_mean,
        a_wait_gets_an_event_that_was_read_before,
        a_look_back_misses_an_event,
        a_cancellation_is_missed,
    ],
    findings.TIMER: [
        a_wait_times_out_early,
        a_sleep_ends_early,
        a_timer_fires_early,
        a_retry_begins_early,
    ],
    findings.TOLD_ONCE: [
        an_invoker_hears_another_result,
        an_invocation_starts_two_runs,
        a_failure_is_not_handled,
    ],
    findings.SIGNAL: [a_signal_is_received_that_was_not_sent, a_signal_has_two_waiters],
    findings.ANSWER: [
        a_caller_is_told_of_an_event_that_is_not_there,
        a_caller_is_told_of_a_cancellation_that_is_not_there,
        a_caller_is_told_twice_that_a_signal_arrived,
    ],
    findings.MESSAGE: [
        a_message_is_skipped,
        a_message_number_is_used_twice,
        a_letter_is_sent_before_it_is_durable,
    ],
    findings.POSITION: [
        an_event_is_read_before_it_is_durable,
        a_position_moves_back,
        a_position_lies_beyond_the_end,
    ],
    findings.TRIM: [
        a_journal_is_trimmed_where_no_round_begins,
        a_journal_is_trimmed_before_recovery_may_begin_there,
        an_inbox_is_trimmed_before_it_is_read,
        events_are_trimmed_before_all_have_read_them,
    ],
    findings.ROUND: [
        recovery_would_begin_where_no_round_does,
        a_round_leaves_out_a_run,
        a_head_says_that_outcomes_lie_elsewhere,
        a_copy_of_a_history_leaves_out_an_entry,
    ],
    findings.OWNER: [a_record_is_by_another_process, a_record_cannot_be_read],
    findings.CLOCK: [a_clock_is_ahead],
    findings.LIVENESS: [a_run_never_ends, a_run_is_stopped],
    findings.RESULT: [a_run_returns_what_does_not_follow_from_its_outcomes],
}


@pytest.mark.parametrize(
    ("promise", "falsify"),
    [
        pytest.param(promise, one, id=one.__name__)
        for promise, some in FALSIFIED.items()
        for one in some
    ],
)
def test_a_falsified_ledger_shows_what_was_falsified(
    promise: str, falsify: Falsify, plain: Ledger, restated: Ledger
) -> None:
    doctor = Doctor(restated if promise in (findings.ROUND, findings.TRIM) else plain)
    falsify(doctor)
    plan = PLAN if promise == findings.RESULT else None
    violations = audit(doctor.ledger(), Setup(PARTITIONS), plan)
    assert violations
    assert {v.promise for v in violations} == {promise}, violations
    assert all(len(v.text) > 20 for v in violations)


def test_what_a_zombie_writes_changes_nothing(plain: Ledger) -> None:
    doctor = Doctor(plain)
    last = doctor.records()[-1]
    end = max(doctor.at(i).offset for i in doctor.records() if doctor.at(i).partition == 0)
    for number, index in enumerate(doctor.records()[1:4], 1):
        again = replace(doctor.at(index), partition=0, offset=end + number, by="zombie")
        doctor.insert(last + number, again)
    assert audit(doctor.ledger(), Setup(PARTITIONS), PLAN) == []


def test_a_void_record_may_not_lead_recovery_astray(restated: Ledger) -> None:
    doctor = Doctor(restated)
    last = doctor.records()[-1]
    decision = replace(doctor.decision(last), fold_from=3)
    value, offset = codec.encode(decision), doctor.at(last).offset + 1
    doctor.append(replace(doctor.at(last), value=value, offset=offset))
    assert [v.promise for v in audit(doctor.ledger(), Setup(PARTITIONS))] == [findings.ROUND]


def test_what_was_not_awaited_is_no_violation(plain: Ledger) -> None:
    doctor = Doctor(plain)
    doctor.cut(len(plain.happenings) // 2)
    assert audit(doctor.ledger(), Setup(PARTITIONS, settled=False)) == []
    assert audit(doctor.ledger(), Setup(PARTITIONS, settled=True)) != []


def test_clocks_may_differ_as_the_set_up_says(plain: Ledger) -> None:
    doctor = Doctor(plain)
    a_clock_is_ahead(doctor)
    assert audit(doctor.ledger(), Setup(PARTITIONS, clock_skew_ms=500)) == []


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("event.data.k == async.data.k", True),
        ("event.data.k == async.data.k && async.data.n > 3", True),
        ("async.data.n > 4 || !(async.data.n >= 5)", True),
        ("async.data.n < 4", False),
        ("async.data.s == 'x' && async.data.t == true", True),
        ("async.data.t == 1", False),
        ("async.data.missing == null", True),
        ("event.data.k != 1", False),
        ("async.data.s < 5", None),
        ("async.data.n < 4 && async.data.s < 5", False),
        ("size(async.data.s) == 1", None),
        ("async.data.list[0] == 1", None),
    ],
)
def test_expressions_have_the_answers_that_are_known(expression: str, answer: bool | None) -> None:
    trigger = {"data": {"k": 1}}
    candidate = {"data": {"k": 1, "n": 4, "s": "x", "t": True}}
    assert holds(expression, {"event": trigger, "async": candidate}) is answer


def test_conditions_are_terms_and_an_expression() -> None:
    condition = Condition(
        "ev/*", "event.data.n < async.data.n", b'{"data":{"n":2}}', [Term("data.k", "1")]
    )
    assert meets(condition, {"data": {"k": 1, "n": 3}}) is True
    assert meets(condition, {"data": {"k": True, "n": 3}}) is False
    assert meets(condition, {"data": {"k": 1, "n": 1}}) is False
    assert [names(condition.event, name) for name in ("ev/a", "ev", "evil/a")] == [1, 0, 0]
