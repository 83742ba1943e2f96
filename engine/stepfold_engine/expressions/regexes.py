# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
"""Regular expressions that take time in proportion to the text, whatever the pattern is.

The only importer of re2. Patterns come from users and are run in the owner's loop, where
Python's own could take for ever.
"""

from collections.abc import Callable

import re2  # type: ignore[import-untyped]

PATTERN_CHARS_MAX = 1_000
MEMORY_BYTES_MAX = 1024 * 1024


def searcher(pattern: str) -> Callable[[str], bool]:
    """A function that says whether the pattern is found anywhere in a text.

    Raises:
        ValueError: the pattern is none, or too large.
    """
    if len(pattern) > PATTERN_CHARS_MAX:
        raise ValueError(
            f"the pattern has {len(pattern)} characters; at most {PATTERN_CHARS_MAX} are allowed"
        )
    options = re2.Options()
    options.max_mem = MEMORY_BYTES_MAX
    options.log_errors = False
    options.never_capture = True
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        shown = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise ValueError(f"the pattern {pattern[:80]!r} cannot be used: {shown}") from error

    def search(text: str) -> bool:
        return compiled.search(text) is not None

    return search
