"""Event names and the patterns that match them.

A pattern is an event's name, or a beginning followed by ``/*`` or ``.*``. There is no other
wildcard: a bare ``*`` is an ordinary name that no event has.
"""

from functools import lru_cache

from stepfold_schemas import strict

PATTERN_CHARS_MAX = 255
"""As long as an event's name may be, so that patterns can be kept in the same index."""

_WILDCARD_ENDS = ("/*", ".*")


def matches(pattern: str, name: str) -> bool:
    """Whether an event of this name is meant by the pattern.

    >>> matches("shop/order.*", "shop/order.paid"), matches("shop/*", "shop"), matches("*", "shop")
    (True, False, False)
    """
    if pattern == name:
        return pattern != "*"
    # What stands before the wildcard, its / or . included, must begin the name; it may not be
    # empty, or "/*" would be a second way to write the bare "*".
    return len(pattern) > 2 and pattern.endswith(_WILDCARD_ENDS) and name.startswith(pattern[:-1])


@lru_cache(maxsize=1_024)
def patterns_of(name: str) -> tuple[str, ...]:
    """Every pattern that matches the name: the name itself, then the shortest wildcard first.

    An index holds waits by pattern; looking up these finds all that an event could match.

    >>> patterns_of("a/b.c.d")
    ('a/b.c.d', 'a/*', 'a/b.*', 'a/b.c.*')
    """
    exact = [] if name == "*" else [name]
    ends = (i for i, char in enumerate(name) if char in "/." and i > 0)
    wildcards = [name[: i + 1] + "*" for i in ends]
    return (*exact, *(pattern for pattern in wildcards if pattern != name))


def check_pattern(pattern: str) -> None:
    """Do nothing if the text can be used as a pattern.

    Raises:
        ValueError: the text is empty or too long, or has a wildcard where none may be.
    """
    if not pattern:
        raise ValueError("an event's name must not be empty")
    strict.check_text("the event's name", pattern, PATTERN_CHARS_MAX)
    beginning = pattern[:-2] if pattern.endswith(_WILDCARD_ENDS) else pattern
    if "*" in beginning or not beginning:
        raise ValueError(
            f"the event's name {pattern!r} has a wildcard that matches nothing: '*' may stand"
            " only at the end, after '/' or '.', as in 'shop/*' or 'shop/order.*'"
        )
