"""A first look at an expression's text, before the grammar sees it; and its constants.

The grammar's own patterns take exponential time on a text that is never closed and full of
backslashes, and no parser should recurse as deep as a text can nest. Both are refused here, in
time in proportion to the text. What passes is cut into words and texts just as the grammar does.
"""

import re

from stepfold_engine.expressions.syntax import Place
from stepfold_engine.expressions.values import INT_MAX, INT_MIN

BRACKETS_MAX = 64
"""How deep brackets may nest."""

_UINT_MAX = 2**64 - 1

_HALF = re.compile("[\ud800-\udfff]")

_TOKEN = re.compile(
    r"""
      (?P<space>   [\t\n\f\r ]+ | //[^\n]* )
    | (?P<text>    [bB]?[rR]? (?: \"\"\"(?:[^\\"]|\\.|"(?!""))*+\"\"\"
                                | '''(?:[^\\']|\\.|'(?!''))*+'''
                                | "(?!"")(?:[^\\"\n\r]|\\[^\n\r])*+"
                                | '(?!'')(?:[^\\'\n\r]|\\[^\n\r])*+' ) )
    | (?P<word>    [_a-zA-Z][_a-zA-Z0-9]* )
    | (?P<number>  0x[0-9a-fA-F]+[uU]? | [0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?[uU]? )
    | (?P<opener>  [(\[{] )
    | (?P<closer>  [)\]}] )
    | (?P<quote>   ["'] )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)

_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv"'`?\\])|([0-3][0-7]{2})|x([0-9a-fA-F]{2})|X([0-9a-fA-F]{2})"""
    r"""|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.|$))""",
    re.DOTALL,
)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class UnreadableError(Exception):
    """The text is no expression of the dialect.

    Attributes:
        reason: what is wrong, in words.
        place: where, if that is known.
    """

    def __init__(self, reason: str, place: Place | None = None) -> None:
        super().__init__(reason)
        self.reason, self.place = reason, place


def place_at(text: str, index: int) -> Place:
    """The line and column of a character."""
    return Place(text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def check_tokens(text: str) -> None:
    """Do nothing if the text can be given to the grammar.

    Raises:
        UnreadableError: it is empty, a text is not closed, brackets nest too deep, or two words
            follow each other.
    """
    depth, before = 0, None
    if half := _HALF.search(text):
        # It could not be kept: nothing writes it as UTF-8.
        where = place_at(text, half.start())
        raise UnreadableError("half of a surrogate pair is not Unicode text", where)
    for token in _TOKEN.finditer(text):
        what = token.lastgroup
        if what == "space":
            continue
        if what == "quote":
            raise UnreadableError("this text is not closed", place_at(text, token.start()))
        if what == "opener":
            depth += 1
            if depth > BRACKETS_MAX:
                where = place_at(text, token.start())
                raise UnreadableError(f"brackets nest deeper than {BRACKETS_MAX} levels", where)
        elif what == "closer":
            depth -= 1
        elif what == "word" and before == "operand" and token[0] != "in":
            # The grammar takes "a inb" for "a in b".
            raise UnreadableError(f"unexpected {token[0][:40]!r}", place_at(text, token.start()))
        before = _kind_of(what, token[0])
    if before is None:
        raise UnreadableError("it is empty")


def _kind_of(what: str | None, written: str) -> str:
    if what == "word" and written == "in":
        return "in"
    return "operand" if what in ("word", "text", "number", "closer") else ""


def decode_text(token: str) -> str:
    """What a text's token says.

    Raises:
        UnreadableError: it has an escape that CEL does not know.
    """
    raw = token[0] in "rR"
    token = token[1:] if raw else token
    quotes = 3 if token[:3] in ('"""', "'''") and len(token) >= 6 else 1
    quote, body = token[0], token[quotes:-quotes]
    if not raw:
        return _ESCAPE.sub(_decode_escape, body)
    if f"\\{quote}" in body or body.endswith("\\"):
        raise UnreadableError(f"a raw text can hold no backslash before {quote}")
    return body


def decode_bytes(token: str) -> bytes:
    """What the token of bytes says, as UTF-8."""
    return decode_text(token[1:]).encode("utf-8", "surrogatepass")


def _decode_escape(escape: re.Match[str]) -> str:
    simple, octal, *hexadecimal, unknown = escape.groups()
    if simple:
        return _ESCAPED.get(simple, simple)
    if octal:
        return chr(int(octal, 8))
    code = next((int(digits, 16) for digits in hexadecimal if digits), None)
    if code is None or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise UnreadableError(f"unknown escape '\\{unknown or escape[0][1:]}' in a text")
    return chr(code)


def decode_whole(token: str) -> int:
    """The value of a whole number's token.

    Raises:
        UnreadableError: it does not fit into 64 bits.
    """
    unsigned = token[-1] in "uU"
    digits = token[:-1] if unsigned else token
    number = int(digits, 16 if "0x" in digits else 10)
    low, high = (0, _UINT_MAX) if unsigned else (INT_MIN, INT_MAX)
    if not low <= number <= high:
        raise UnreadableError(f"the number {token[:40]} does not fit into 64 bits")
    return number


def decode_double(token: str) -> float:
    """The value of a double's token.

    Raises:
        UnreadableError: it is larger than doubles are.
    """
    number = float(token)
    if number in (float("inf"), float("-inf")):
        raise UnreadableError(f"the number {token[:40]} is too large")
    return number
