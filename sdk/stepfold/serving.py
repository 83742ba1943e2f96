"""Which runs a process may go on with: those of its functions, and of pinned ones its versions."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from stepfold.function import Function

Serves = Callable[[str, str], bool]
"""Says of a function's full id, and the version that a run began with, whether it is served."""


def serves_of(
    functions: Callable[[], Mapping[str, Function[Any]]], versions: Collection[str] = ()
) -> Serves:
    """Return what says which runs a process serves.

    Args:
        functions: the process's functions, as they are now.
        versions: versions of pinned functions that its code fits, besides its own.
    """

    def serves(function: str, version: str) -> bool:
        found = functions().get(function)
        if found is None:
            return False
        return not found.pinned or version == found.version or version in versions

    return serves
