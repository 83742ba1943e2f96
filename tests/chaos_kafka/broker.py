"""The broker that chaos kills, hangs and starts again: one of its own, on this machine."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from tests.parts.broker import SCRIPT, on_this_machine

STARTS_MAX = 10


class OwnBroker:
    """A broker that nobody else uses.

    Raises:
        NoBrokerError: this machine cannot run one.
    """

    def __init__(self, folder: Path) -> None:
        self.where, self._wipe = on_this_machine(folder, session_ms=3_000)

    def _act(self, *what: str) -> None:
        command = [sys.executable, str(SCRIPT), "--dir", self.where.folder, *what]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def close(self, *, keep: bool) -> None:
        """Stop it; keep its data, to be looked at, or remove it."""
        if keep:
            self._act("stop")
        else:
            self._wipe()

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._act("kill", "1")

    def start(self) -> None:
        """Start it again; wait until it serves. Somebody may hold its port for a moment."""
        for _ in range(STARTS_MAX - 1):
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._act("start")
            time.sleep(1)
        return self._act("start")

    def stop(self) -> None:
        """Stop it where it is, until it is continued."""
        self._act("pause", "1")

    def go_on(self) -> None:
        """Continue it."""
        self._act("continue", "1")
