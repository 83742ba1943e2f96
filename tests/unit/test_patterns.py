"""Which event names a pattern means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepfold_engine.core.patterns import check_pattern, matches, patterns_of

names = st.text(alphabet="ab/.*", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("a/b.c.d", "a/b.c.d", True),
        ("a/*", "a/b.c.d", True),
        ("a/b.*", "a/b.c.d", True),
        ("a/b.c.*", "a/b.c.d", True),
        ("a/b.c.d.*", "a/b.c.d", False),
        ("a/b*", "a/b.c.d", False),
        ("a*", "a/b", False),
        ("*", "a", False),
        ("*", "*", False),
        ("/*", "/a", False),
        (".*", ".a", False),
        ("a/*", "a", False),
        ("a/*", "ab/c", False),
        ("a.*", "a/b", False),
        ("a/*.c", "a/b.c", False),
        ("a", "A", False),
    ],
)
def test_a_pattern_matches_only_what_it_begins(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_the_patterns_of_a_name_are_all_that_match_it() -> None:
    assert patterns_of("a/b.c.d") == ("a/b.c.d", "a/*", "a/b.*", "a/b.c.*")
    assert patterns_of("plain") == ("plain",)
    assert patterns_of("*") == ()


@given(pattern=names, name=names)
def test_a_pattern_matches_exactly_if_the_index_finds_it(pattern: str, name: str) -> None:
    assert matches(pattern, name) is (pattern in patterns_of(name))
    assert len(set(patterns_of(name))) == len(patterns_of(name))


@pytest.mark.parametrize("pattern", ["a", "a/*", "a/b.*", "a b/ü.*", "x" * 255])
def test_a_good_pattern_is_accepted(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "must not be empty"),
        ("x" * 256, "256 characters, the limit is 255"),
        ("*", "only at the end"),
        ("/*", "only at the end"),
        ("a*", "only at the end"),
        ("a/*/b", "'a/\\*/b' has a wildcard"),
        ("*/a.*", "only at the end"),
    ],
)
def test_a_bad_pattern_is_refused_with_the_reason(pattern: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_pattern(pattern)
