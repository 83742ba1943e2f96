"""One process at a time: a lock on the log's folder that names who holds it.

The operating system lets go of it when the process ends, however it ends.
"""

import fcntl
import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from stepfold_engine.errors import LogLockedError

COMMAND_CHARS_MAX = 200


class FolderLock:
    """Holds ``folder/lock`` until closed."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            LogLockedError: another process has it; the message names it.
        """
        path = folder / "lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 4096)
            os.close(self._file)
            raise LogLockedError(_message(folder, holder)) from None
        except BaseException:
            os.close(self._file)
            raise
        mine = {
            "pid": os.getpid(),
            "command": " ".join(sys.orig_argv)[:COMMAND_CHARS_MAX],
            "started": datetime.now(UTC).isoformat(" ", "seconds"),
        }
        # A full disk is no reason not to start: the lock holds, a second process is told less.
        with suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(mine).encode(), 0)

    def close(self) -> None:
        """Let go."""
        os.close(self._file)


def _message(folder: Path, holder: bytes) -> str:
    try:
        who = json.loads(holder)
        named = f"process {who['pid']} (command {who['command']}), started {who['started']}"
    except (ValueError, KeyError, TypeError):
        named = "another process"
    return f"{folder} is in use by {named}; stop it, or use another folder"
