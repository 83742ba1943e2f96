"""A fingerprint of a function's code: the same code gives the same one, wherever it lies.

Line numbers, file names and docstrings do not count. Another release of Python compiles to other
bytecode and so gives another fingerprint.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable
from types import CodeType


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
    add(code.co_code)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    add(repr((names, code.co_argcount, code.co_kwonlyargcount, code.co_flags)).encode())
    constants = code.co_consts
    if constants and isinstance(constants[0], str) and _has_docstring(code):
        constants = constants[1:]
    for constant in constants:
        _add_constant(add, constant)


def _has_docstring(code: CodeType) -> bool:
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)
    # A function without one has None there; a comprehension has whatever it uses first.
    return not code.co_name.startswith("<")


def _add_constant(add: Callable[[bytes], object], constant: object) -> None:
    if isinstance(constant, CodeType):
        _add_code(add, constant)
    elif isinstance(constant, tuple):
        add(b"(")
        for inner in constant:  # pyright: ignore[reportUnknownVariableType] - of a tuple of anything
            _add_constant(add, inner)  # pyright: ignore[reportUnknownArgumentType]
        add(b")")
    elif isinstance(constant, frozenset):
        # Its order differs from process to process.
        add(repr(sorted(map(repr, constant))).encode())  # pyright: ignore[reportUnknownArgumentType]
    else:
        add(repr(constant).encode())
