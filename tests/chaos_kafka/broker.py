"""The broker that chaos kills, hangs and starts again: one of its own, on this machine."""

import subprocess
import sys
from pathlib import Path

from tests.parts.broker import SCRIPT, on_this_machine


class OwnBroker:
    """A broker that nobody else uses.

    Raises:
        NoBrokerError: this machine cannot run one.
    """

    def __init__(self, folder: Path) -> None:
        self.where, self.close = on_this_machine(folder)

    def _act(self, *what: str) -> None:
        command = [sys.executable, str(SCRIPT), "--dir", self.where.folder, *what]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._act("kill", "1")

    def start(self) -> None:
        """Start it again; wait until it serves."""
        self._act("start")

    def stop(self) -> None:
        """Stop it where it is, until it is continued."""
        self._act("pause", "1")

    def go_on(self) -> None:
        """Continue it."""
        self._act("continue", "1")
