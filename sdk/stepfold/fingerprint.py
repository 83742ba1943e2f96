"""A fingerprint of a function's code: the same code gives the same one, wherever it lies.

Line numbers, file names and docstrings do not count. Another release of Python compiles to other
bytecode and so gives another fingerprint.
"""

import dis
import hashlib
from collections.abc import Callable, Iterable
from types import CodeType
from typing import cast

_CONSTANTS, _NAMES = frozenset(dis.hasconst), frozenset((*dis.hasname, *dis.haslocal, *dis.hasfree))


def fingerprint(function: Callable[..., object]) -> str:
    """Return 40 hex digits that stand for a function's code, nested functions included."""
    digest = hashlib.sha1(usedforsecurity=False)
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        _add_code(digest.update, code)
    else:
        digest.update(repr(type(function)).encode())
    return digest.hexdigest()


def _add_code(add: Callable[[bytes], object], code: CodeType) -> None:
    add(repr((code.co_varnames[: code.co_argcount], code.co_kwonlyargcount)).encode())
    for instruction in dis.get_instructions(code):
        # What is loaded counts, not at which place in its table it lies: a docstring takes one.
        add(instruction.opname.encode())
        if instruction.opcode in _CONSTANTS:
            _add_constant(add, instruction.argval)
        elif instruction.opcode in _NAMES:
            add(str(instruction.argval).encode())
        else:
            add(str(instruction.arg).encode())


def _add_constant(add: Callable[[bytes], object], constant: object) -> None:
    if isinstance(constant, CodeType):
        _add_code(add, constant)
    elif isinstance(constant, tuple):
        add(b"(")
        for inner in cast("tuple[object, ...]", constant):  # of anything
            _add_constant(add, inner)
        add(b")")
    elif isinstance(constant, frozenset):
        # Its order differs from process to process.
        add(repr(sorted(map(repr, cast("Iterable[object]", constant)))).encode())
    else:
        add(repr(constant).encode())
