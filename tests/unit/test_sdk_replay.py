"""The replay machine alone: journals and asks in, deliveries and divergences out."""

from collections.abc import Sequence

import pytest

from stepfold.port import Fact
from stepfold.replay import (
    INVOKE,
    SIGNAL,
    SLEEP,
    STEP,
    TIMER,
    TIMER_ID,
    WAIT,
    Ask,
    DivergedError,
    Replay,
)
from stepfold_schemas.entries import (
    AttemptStarted,
    Entry,
    Error,
    EventMatched,
    OperationsAbandoned,
    RunAttemptFailed,
    SignalWaitBegan,
    SignalWaitEnded,
    SleepBegan,
    SleepEnded,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    TimerFired,
    TimerSet,
    WaitRef,
)
from stepfold_schemas.ids import step_key

RUN = b"r" * 16
ERROR = Error("E", "no")


def facts(*entries: Entry, first: int = 1) -> list[Fact]:
    return [Fact(first + n, 0, 1_000 * (first + n), entry) for n, entry in enumerate(entries)]


def completed(name: str, attempt: int = 1) -> StepCompleted:
    return StepCompleted(RUN, step_key(name), name, attempt, 0, b"1")


def failed(name: str, attempt: int = 1) -> StepAttemptFailed:
    return StepAttemptFailed(RUN, step_key(name), name, attempt, 0, ERROR, 9_000)


def slept(name: str) -> Sequence[Entry]:
    return SleepBegan(RUN, step_key(name), name, 5_000), SleepEnded(RUN, step_key(name))


class Code:
    """Asks like a run's code."""

    def __init__(self, *history: Entry, attempt: int = 1) -> None:
        self.replay = Replay(RUN, 500, attempt=attempt)
        self.outcomes = self.replay.load(facts(*history))

    def ask(self, kind: str, id_: str) -> Ask:
        name, key = self.replay.name(id_)
        ask = Ask(kind, name, key)
        self.replay.ask(ask)
        return ask

    def given(self) -> list[str]:
        names: list[str] = []
        while (found := self.replay.next()) is not None:
            names.append(found[0].name)
        return names

    def new(self) -> list[str]:
        return [ask.name for ask in self.replay.take_new()]


def test_outcomes_come_in_the_order_of_the_journal_not_of_the_asks() -> None:
    code = Code(completed("b"), completed("a"))
    code.ask(STEP, "a")
    code.ask(STEP, "b")
    assert code.given() == ["b", "a"]
    assert code.replay.now_ms == 2_000
    assert code.new() == []


def test_an_outcome_waits_until_it_is_asked_for_although_later_ones_are() -> None:
    code = Code(completed("a"), completed("b"))
    code.ask(STEP, "b")
    assert code.given() == []
    code.ask(STEP, "a")
    assert code.given() == ["a", "b"]


def test_new_asks_are_held_until_the_recorded_outcomes_are_given() -> None:
    code = Code(completed("a"))
    code.ask(STEP, "x")
    code.ask(STEP, "a")
    assert code.new() == []
    assert code.given() == ["a"]
    assert code.new() == ["x"]
    assert code.new() == []


def test_a_step_that_was_asked_for_and_got_its_outcome_meanwhile_is_not_new() -> None:
    code = Code(completed("a"))
    code.ask(STEP, "a")
    code.ask(STEP, "b")
    assert code.given() == ["a"]
    # The attempt that an earlier life of the code began has ended.
    (fact,) = facts(completed("b"), first=2)
    assert code.replay.add(fact)
    assert code.given() == ["b"]
    assert code.new() == []


def test_an_operation_that_has_begun_is_not_new_but_a_step_is_until_it_has_an_outcome() -> None:
    code = Code(
        SleepBegan(RUN, step_key("s"), "s", 5_000),
        failed("again", 2),
        AttemptStarted(RUN, step_key("running"), "running", 1, 0),
    )
    assert code.ask(SLEEP, "s").recorded
    code.ask(STEP, "again")
    code.ask(STEP, "running")
    assert code.new() == ["again", "running"]
    assert code.replay.failures == {step_key("again"): 2}


def test_repeats_of_an_id_are_counted() -> None:
    code = Code()
    assert [code.replay.name("x") for _ in range(3)] == [
        ("x", step_key("x")),
        ("x:1", step_key("x", 1)),
        ("x:2", step_key("x", 2)),
    ]
    assert [code.replay.name(TIMER_ID)[0] for _ in range(2)] == ["timer", "timer:1"]


@pytest.mark.parametrize("abandoned", [False, True])
def test_an_outcome_of_what_was_cancelled_is_passed_over(abandoned: bool) -> None:
    code = Code()
    slow = code.ask(STEP, "slow")
    code.replay.cancel(slow)
    code.ask(STEP, "next")
    if abandoned:
        code.replay.add(facts(OperationsAbandoned(RUN, [step_key("slow")]))[0])
    else:
        code.replay.add(facts(completed("slow"))[0])
    code.replay.add(facts(completed("next"), first=2)[0])
    assert code.given() == ["next"]
    assert not slow.delivered
    assert code.replay.stuck() is None


def test_facts_that_were_seen_are_ignored() -> None:
    code = Code()
    code.ask(STEP, "a")
    (fact,) = facts(completed("a"))
    assert code.replay.add(fact)
    assert not code.replay.add(fact)
    assert code.given() == ["a"]


def test_restated_history_may_be_numbered_later_than_what_follows_it() -> None:
    replay = Replay(RUN, 0)
    replay.load([Fact(90, 0, 1, completed("a")), Fact(7, 0, 2, completed("b"))])
    replay.add(Fact(91, 0, 3, completed("c")))
    for name in "abc":
        replay.ask(Ask(STEP, name, step_key(name)))
    given = [found[0].name for found in iter(replay.next, None)]
    assert given == ["a", "b", "c"]


def test_an_event_is_the_outcome_of_this_runs_waits_only() -> None:
    other = WaitRef(b"x" * 16, step_key("w"))
    matched = EventMatched(b"", "e", [other, WaitRef(RUN, step_key("mine"))])
    code = Code(matched)
    code.ask(WAIT, "w")
    code.ask(WAIT, "mine")
    assert code.given() == ["mine"]


def test_a_replaced_signal_wait_goes_on() -> None:
    key = step_key("s")
    began = SignalWaitBegan(RUN, key, "s", "name", 1, "fail")
    code = Code(began, SignalWaitEnded(RUN, key, "replaced", b""))
    code.ask(SIGNAL, "s")
    assert code.given() == []
    assert code.replay.stuck() is None


@pytest.mark.parametrize(
    ("history", "kind"),
    [
        ([completed("x")], SLEEP),
        ([failed("x")], WAIT),
        ([SleepBegan(RUN, step_key("x"), "x", 1)], STEP),
        ([*slept("x")], INVOKE),
        ([TimerSet(RUN, step_key("x"), "x", 1), TimerFired(RUN, step_key("x"))], SLEEP),
    ],
    ids=["completed", "failed-attempt", "begun", "ended", "timer"],
)
def test_another_kind_in_the_same_place_diverges(history: Sequence[Entry], kind: str) -> None:
    code = Code(*history)
    with pytest.raises(DivergedError, match=f"asks for a {kind}") as caught:
        code.ask(kind, "x")
    divergence = caught.value.divergence
    assert divergence.expected is not None
    assert divergence.expected.name in ("x", "")
    assert [ask.name for ask in divergence.met] == ["x"]


def test_a_refused_wait_fails_as_a_step_does() -> None:
    code = Code(StepFailed(RUN, step_key("w"), "w", 1, 0, ERROR))
    code.ask(WAIT, "w")
    assert code.given() == ["w"]


def test_code_that_asks_for_something_else_is_stuck() -> None:
    code = Code(completed("a"), completed("b"))
    code.ask(STEP, "a")
    code.ask(STEP, "c")
    assert code.given() == ["a"]
    assert code.replay.doubtful
    divergence = code.replay.stuck()
    assert divergence is not None
    assert divergence.expected is not None
    assert (divergence.expected.name, divergence.expected.at_ms) == ("b", 2_000)
    assert [ask.name for ask in divergence.met] == ["c"]


def test_an_operation_that_code_does_not_ask_for_any_more_is_missed_at_the_end() -> None:
    code = Code(completed("a"), SleepBegan(RUN, step_key("s"), "s", 5_000))
    code.ask(STEP, "a")
    code.given()
    code.ask(STEP, "new")
    divergence = code.replay.stuck()
    assert divergence is not None
    assert divergence.expected is not None
    assert (divergence.expected.kind, divergence.expected.name) == (SLEEP, "s")


def test_one_that_was_abandoned_is_not_missed() -> None:
    code = Code(
        SleepBegan(RUN, step_key("s"), "s", 5_000), OperationsAbandoned(RUN, [step_key("s")])
    )
    code.ask(STEP, "new")
    assert not code.replay.doubtful
    assert code.replay.stuck() is None
    assert code.replay.ended() is None


def test_code_that_awaits_what_it_had_cancelled_is_stuck() -> None:
    code = Code(
        SleepBegan(RUN, step_key("s"), "s", 5_000), OperationsAbandoned(RUN, [step_key("s")])
    )
    ask = code.ask(SLEEP, "s")
    assert code.new() == []
    divergence = code.replay.stuck()
    assert divergence is not None
    assert divergence.met == [ask]
    code.replay.cancel(ask)
    assert code.replay.stuck() is None


def test_a_function_that_ends_while_the_journal_goes_on_has_diverged() -> None:
    code = Code(completed("a"), completed("b"))
    code.ask(STEP, "a")
    code.given()
    divergence = code.replay.ended()
    assert divergence is not None
    assert divergence.expected is not None
    assert divergence.expected.name == "b"


def test_late_outcomes_of_what_was_asked_do_not_matter_at_the_end() -> None:
    code = Code(completed("a"), completed("b"))
    code.ask(STEP, "a")
    code.ask(STEP, "b")
    code.replay.next()
    assert code.replay.ended() is None


class TestTheFunctionsNextAttempt:
    HISTORY = (
        completed("a"),
        completed("b"),
        RunAttemptFailed(RUN, 1, ERROR, 0),
    )

    def test_may_take_another_path(self) -> None:
        code = Code(*self.HISTORY, attempt=2)
        code.ask(STEP, "repair")
        assert code.given() == []
        assert not code.replay.doubtful
        assert code.new() == ["repair"]
        code.replay.add(Fact(9, 0, 9_000, completed("repair")))
        assert code.given() == ["repair"]
        code.ask(STEP, "b")
        assert code.given() == ["b"]
        assert code.replay.ended() is None

    def test_gets_the_outcomes_it_asks_for_in_the_order_of_the_journal(self) -> None:
        code = Code(*self.HISTORY, attempt=2)
        code.ask(STEP, "b")
        code.ask(STEP, "a")
        assert code.given() == ["a", "b"]

    def test_gets_a_new_identity_for_what_the_failed_one_had_cancelled(self) -> None:
        abandoned = OperationsAbandoned(RUN, [step_key("s")])
        history = (*slept("s")[:1], abandoned, *self.HISTORY[2:])
        code = Code(*history, attempt=2)
        name, key = code.replay.name("s")
        assert name == "s"
        assert key != step_key("s")
        third = Code(
            *history,
            StepCompleted(RUN, key, "s", 1, 0, b"1"),
            RunAttemptFailed(RUN, 2, ERROR, 0),
            attempt=3,
        )
        assert third.replay.name("s") == (name, key), "what has an outcome keeps its identity"
        fourth = Code(
            *history,
            OperationsAbandoned(RUN, [key]),
            RunAttemptFailed(RUN, 2, ERROR, 0),
            attempt=3,
        )
        assert fourth.replay.name("s")[1] not in (key, step_key("s"))


def test_a_timer_is_asked_for_like_anything_else() -> None:
    code = Code()
    ask = code.ask(TIMER, TIMER_ID)
    assert code.new() == ["timer"]
    code.replay.cancel(ask)
    code.replay.forget(ask)
    assert code.replay.asked == {}
