"""The processes that chaos starts, stops, continues and kills: each by its own number."""

import signal
import subprocess
import time
from pathlib import Path

from tests.chaos.disk import Recorder
from tests.chaos.program import Orders
from tests.chaos.rooms import Room

READY_S_MAX = 60.0
LOOK_S = 0.01


class Process:
    """One life of the program.

    Attributes:
        url: where it serves, "" before it does.
    """

    def __init__(
        self, room: Room, orders: Orders, papers: Path, recorder: Recorder | None = None
    ) -> None:
        """Start it.

        Args:
            room: where its log lies.
            orders: what it is told.
            papers: the folder for what it says.
            recorder: records what it does to the disk.
        """
        self.life = orders.life
        self.recorder = recorder
        self.url = ""
        self._said = papers / f"said-{self.life:05}"
        self._complained = papers / f"complained-{self.life:05}"
        more = recorder.environment() if recorder is not None else {}
        with self._said.open("wb") as said, self._complained.open("wb") as complained:
            self._popen = room.start(
                "tests.chaos.program",
                orders.text(),
                said=said.fileno(),
                complained=complained.fileno(),
                more=more,
            )

    @property
    def number(self) -> int:
        """The system's number of the process."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._popen.poll()

    @property
    def complaints(self) -> str:
        """What it wrote to its standard error."""
        return self._complained.read_text(errors="replace")

    def serves(self) -> bool:
        """Say whether it has come to serve; it then has a ``url``."""
        words = self._said.read_text().split()
        if words[:1] == ["ready"] and len(words) > 1 and not self.url:
            self.url = f"http://127.0.0.1:{words[1]}"
        return bool(self.url)

    def wait_until_it_serves(self) -> bool:
        """Wait until it serves; False if it ended, or did not come to it in time."""
        deadline_s = time.monotonic() + READY_S_MAX
        while not self.serves():
            if self.code is not None or time.monotonic() > deadline_s:
                return False
            time.sleep(LOOK_S)
        return True

    def stop(self) -> None:
        """Stop it where it is, until it is continued."""
        self._popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue it."""
        self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, running or stopped."""
        self._popen.kill()
        self._popen.wait(30)

    def end(self) -> int:
        """Ask it to end; return its code."""
        self._popen.terminate()
        return self._popen.wait(60)

    def wait(self, seconds: float) -> int | None:
        """Wait for its end; return its code, None if it goes on."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
