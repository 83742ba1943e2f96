"""The acceptance rule, and fold(all) = fold(from a round): journals in, states out."""

from stepfold_engine.core.apply import apply
from stepfold_engine.core.decide.restate import begin_round
from stepfold_engine.core.fold import begin, fold
from stepfold_engine.core.partition import Partition
from stepfold_schemas.entries import (
    Decision,
    Entry,
    PartitionClaimed,
    PartitionReleased,
    RetryPolicy,
    RunCompleted,
    RunStarted,
    SleepBegan,
    StepCompleted,
)
from stepfold_schemas.ids import run_id, run_key, step_key

RUN = run_id(1, run_key(0, "app-f", "event-1"))


def claim(epoch: int, nonce: bytes = b"n", incarnation: str = "") -> Decision:
    entry = PartitionClaimed(epoch, nonce, "node", incarnation or f"life-{epoch}")
    return Decision(epoch, 0, 1, 0, [], [entry])


def decision(epoch: int, seq: int, *entries: Entry) -> Decision:
    return Decision(epoch, seq, 1_000 + seq, 0, [], list(entries))


def started(run: bytes = RUN) -> RunStarted:
    return RunStarted(run, "app-f", "1", "x", [], ["e"], True, 0, 0, 0, RetryPolicy(), [])


def completed(name: str, run: bytes = RUN) -> StepCompleted:
    return StepCompleted(run, step_key(name), name, 1, 1, b"1")


def folded(*journal: Decision) -> tuple[Partition, list[bool]]:
    state = Partition(0, 1)
    return state, [fold(state, d, offset) for offset, d in enumerate(journal)]


def test_a_claim_counts_only_with_the_next_epoch() -> None:
    state, accepted = folded(claim(1), claim(1, b"m"), claim(3), claim(2))
    assert accepted == [True, False, False, True]
    assert state.epoch == 2


def test_of_two_claims_of_one_epoch_the_first_in_the_log_counts() -> None:
    state, accepted = folded(claim(1), claim(2, b"x1", "x1"), claim(2, b"x2", "x2"))
    assert accepted == [True, True, False]
    assert state.incarnation == "x1"


def test_a_newer_epoch_fences_the_older() -> None:
    state, accepted = folded(
        claim(1), decision(1, 1, started()), claim(2), decision(1, 2, completed("late"))
    )
    assert accepted == [True, True, True, False]
    run = state.runs.get(RUN[6:])
    assert run is not None
    assert run.done == set()


def test_a_duplicate_is_void() -> None:
    again = decision(1, 1, started())
    _, accepted = folded(claim(1), again, again)
    assert accepted == [True, True, False]


def test_a_hole_voids_the_rest_of_its_epoch_but_not_the_next() -> None:
    _, accepted = folded(
        claim(1),
        decision(1, 1, started()),
        decision(1, 3, completed("b")),
        decision(1, 2, completed("a")),
        claim(2),
        decision(2, 2, completed("a")),
    )
    assert accepted == [True, True, False, False, True, True]


def test_an_outcome_is_counted_once_and_late_facts_of_an_ended_run_mean_nothing() -> None:
    state, _ = folded(
        claim(1),
        decision(1, 1, started()),
        decision(1, 2, RunCompleted(RUN, b"1")),
        decision(1, 3, completed("late")),
    )
    assert len(state.runs) == 0
    assert state.knows(RUN[6:])


def test_seq_and_offset_are_found_behind_claims_and_void_records() -> None:
    state, _ = folded(
        claim(1),
        decision(1, 1, started()),
        claim(2),
        decision(1, 2),
        decision(2, 2, completed("a")),
        decision(2, 3, completed("b")),
    )
    assert [state.places.hint(seq) for seq in (1, 2, 3)] == [1, 4, 5]


def test_a_death_counts_only_if_nothing_released_the_partition() -> None:
    state, _ = folded(claim(1), decision(1, 1, started(), PartitionReleased()), claim(2), claim(3))
    assert state.trials.unclean == 1
    assert not state.trials.suspects


def test_claims_of_the_same_process_are_not_deaths() -> None:
    state, _ = folded(*(claim(epoch, incarnation="same") for epoch in range(1, 6)))
    assert state.trials.unclean == 0


def test_after_the_second_death_runs_that_were_going_on_are_suspects() -> None:
    other = run_id(1, run_key(0, "app-f", "event-2"))
    asleep = SleepBegan(other, step_key("z"), "z", 10**12)
    state, _ = folded(
        claim(1), decision(1, 1, started(), started(other), asleep), claim(2), claim(3)
    )
    assert set(state.trials.suspects) == {RUN[6:], other[6:]}


def test_folding_from_a_round_needs_its_first_record() -> None:
    state = Partition(0, 1)
    try:
        begin(state, decision(1, 1, started()))
    except AssertionError:
        return
    raise AssertionError("a fold began in the middle of a journal")


def test_apply_is_total_for_unknown_runs() -> None:
    state = Partition(0, 1)
    apply(state, decision(1, 1, completed("x"), SleepBegan(RUN, step_key("y"), "y", 5)))
    assert len(state.runs) == 0


def test_a_fold_from_a_round_knows_where_older_decisions_lie() -> None:
    before = [
        claim(1),
        decision(1, 1, started()),
        claim(2),
        decision(2, 2, completed("a")),
        decision(2, 3, completed("b")),
    ]
    whole, _ = folded(*before)
    restated = decision(2, 4, *begin_round(whole, [], 3))
    part = Partition(0, 1)
    begin(part, restated)
    assert fold(part, restated, 5)
    assert [part.places.hint(seq) for seq in (1, 2, 3, 4)] == [1, 3, 4, 5]


def test_s27_a_fold_that_begins_at_a_trimmed_journal_ignores_a_zombie() -> None:
    before, _ = folded(claim(1), decision(1, 1, started()), claim(2))
    restated = decision(2, 2, *begin_round(before, [], 3))
    zombie = [decision(1, 2, completed("a")), decision(1, 3, completed("b")), claim(2, b"z")]
    state = Partition(0, 1)
    begin(state, restated)
    journal = [restated, *zombie, decision(2, 3, completed("c"))]
    assert [fold(state, d, 3 + n) for n, d in enumerate(journal)] == [True, *[False] * 3, True]
    assert (state.epoch, state.seq) == (2, 3)
