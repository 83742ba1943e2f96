"""One process at a time: a lock on the log's folder that names who holds it.

The operating system lets go of it when the process ends, however it ends.
"""

import fcntl
import json
import os
import sys
import time
from pathlib import Path

from stepfold_engine.errors import LogLockedError


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
        except OSError:
            holder = os.read(self._file, 4096)
            os.close(self._file)
            raise LogLockedError(_message(folder, holder)) from None
        mine = {
            "pid": os.getpid(),
            "command": " ".join(sys.argv),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(mine).encode(), 0)

    def close(self) -> None:
        """Let go."""
        os.close(self._file)


def _message(folder: Path, holder: bytes) -> str:
    try:
        who = json.loads(holder)
        named = f"process {who['pid']} ({who['command']}), started {who['started']}"
    except (ValueError, KeyError, TypeError):
        named = "another process"
    return f"{folder} is in use by {named}; stop it, or use another folder"
