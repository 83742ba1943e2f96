"""Places: where decisions lie, from few pairs, and how sure that is."""

from stepfold_engine.core.places import Places


def test_one_pair_says_where_all_decisions_without_gaps_lie() -> None:
    places = Places()
    for seq in range(1, 100):
        places.note(seq, seq + 4)
    assert places.pairs == [(1, 4)]
    found = places.find(57)
    assert found is not None
    assert (found.seq, found.offset, found.at) == (1, 5, 61)


def test_what_was_in_flight_when_a_round_began_is_found_by_following_the_journal() -> None:
    """Decisions 8 and 9 had no offsets yet; a claim and a zombie's record came before 9."""
    places = Places()
    for seq in range(1, 8):
        places.note(seq, seq)
    recovered = Places()
    recovered.note(10, 12)
    recovered.adopt(places.restated(confirmed=7), before=10)
    sure, unsure = recovered.find(7), recovered.find(9)
    assert sure is not None
    assert sure.at == 7
    assert unsure is not None
    assert (unsure.seq, unsure.offset, unsure.at) == (7, 7, -1)
    assert recovered.hint(9) <= 9
    later = recovered.find(11)
    assert later is not None
    assert later.at == 13


def test_marks_that_tell_nothing_are_dropped_in_the_next_round() -> None:
    places = Places()
    places.note(1, 1)
    again = Places()
    again.note(10, 10)
    again.adopt(places.restated(confirmed=9), before=10)
    assert again.pairs == [(1, 0)]
    assert again.restated(confirmed=20) == [(1, 0), (20, 0)]
    found = again.find(15)
    assert found is not None
    assert found.at == 15


def test_what_lies_before_the_journals_start_is_forgotten() -> None:
    places = Places()
    for seq, offset in ((1, 1), (5, 6), (9, 12)):
        places.note(seq, offset)
    places.forget(before=8)
    assert places.pairs == [(5, 1), (9, 3)]
