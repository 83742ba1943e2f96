"""Origins: does a call into the event loop come from a function's own code, or from a library's?

A timer that a run's own code sets (``asyncio.timeout``, ``asyncio.sleep``) is part of what the
run does and must come back the same when it is replayed. One that a library sets inside (a keep-
alive, its own timeout) is part of how an answer is got, and stays an ordinary timer.
"""

import asyncio
import contextlib
import site
import sys
import sysconfig
from pathlib import Path
from types import FrameType

frame_at = sys._getframe  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - nothing else is as fast
"""Returns a frame of the calling thread: 0 for the caller's own, 1 for that of its caller, …"""

_TRANSPARENT = str(Path(asyncio.__file__).parent)
_CONTEXTLIB = contextlib.__file__
_HERE = str(Path(__file__).parent)


def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages(), _HERE, "<frozen "]
    return tuple(dict.fromkeys(found))


_LIBRARIES = _library_folders()


class Origins:
    """Tells a function's own code from libraries.

    Own is what lies neither in the standard library nor in site-packages, and whatever belongs to
    the same top-level package as the function itself.
    """

    __slots__ = ("_files", "_package")

    def __init__(self, module: str) -> None:
        self._package = module.partition(".")[0]
        self._files: dict[str, bool | None] = {}

    def owns(self, frame: FrameType | None) -> bool:
        """Say whether the first frame outward that is not asyncio's is the function's own code."""
        while frame is not None:
            known = self.is_own_file(frame)
            if known is not None:
                return known
            frame = frame.f_back
        return False

    def is_own_file(self, frame: FrameType) -> bool | None:
        """Say whether a frame is own code; None for asyncio, which others call."""
        file = frame.f_code.co_filename
        if file in self._files:
            return self._files[file]
        module = str(frame.f_globals.get("__name__", ""))
        known = self._files[file] = self._classify(file, module)
        return known

    def is_own(self, file: str, module: str) -> bool:
        """Say whether a module that lies in a file is own code."""
        return bool(self._classify(file, module))

    def _classify(self, file: str, module: str) -> bool | None:
        if file.startswith(_TRANSPARENT) or file == _CONTEXTLIB:
            return None
        if module.partition(".")[0] == self._package and module != "__main__":
            return True
        return not file.startswith(_LIBRARIES)
