"""Where a log lies: in a plain folder, or on a disk so small that it can be filled.

A small disk is a tmpfs in a mount namespace of its own, which one process holds and which ends
with it: nothing is mounted for anybody else, and nothing stays behind. It takes root, or a kernel
that lets users make namespaces. Processes that shall use it are started inside; others reach it
through ``/proc/<holder>/root``.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.disk import UnavailableError

SMALL_MIB = 64
ROOT = Path(__file__).resolve().parents[2]
_HOLD = 'mount -t tmpfs -o size={size}m none "{path}" && echo held && exec sleep 100000'


class Room:
    """A plain folder.

    Attributes:
        inside: the folder as processes that are started there name it.
        outside: the same folder as everybody else names it.
        prefix: goes before the command of a process that is started there.
    """

    def __init__(self, folder: Path) -> None:
        self.inside = self.outside = folder
        self.prefix: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(
        self, module: str, *arguments: str, said: int, complained: int, more: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start a module of ours as a program inside.

        Args:
            module: its name.
            arguments: what it is given.
            said: the descriptor for its standard output.
            complained: the same for its standard error.
            more: what its environment holds besides ours.
        """
        # The namespace of a small disk has a working folder of its own.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", module, *arguments],
            stdout=said,
            stderr=complained,
            env={**os.environ, "PYTHONPATH": path, **more},
            cwd=ROOT,
        )

    def close(self) -> None:
        """Let go."""


class SmallRoom(Room):
    """A folder on a small disk of its own."""

    def __init__(self, folder: Path) -> None:
        """Mount it.

        Raises:
            UnavailableError: this machine does not let us.
        """
        super().__init__(folder)
        if any(shutil.which(name) is None for name in ("unshare", "nsenter", "mount")):
            raise UnavailableError("no unshare, nsenter and mount: install util-linux")
        hold = _HOLD.format(size=SMALL_MIB, path=folder)
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            ["unshare", *user, "--mount", "--propagation", "private", "sh", "-c", hold],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "held\n":
            _, why = self._holder.communicate(timeout=10)
            raise UnavailableError(f"a small disk cannot be mounted: {why.strip()}; run it as root")
        number = str(self._holder.pid)
        self.prefix = ["nsenter", "--target", number, "--mount"]
        if user:
            self.prefix += ["--user", "--preserve-credentials"]
        self.inside = folder / "log"
        self.outside = Path(f"/proc/{number}/root{folder}/log")
        self.outside.mkdir()
        self._filler = self.outside.parent / "filler"

    def fill(self, left_bytes: int = 0) -> None:
        """Take all the room there is, but so many bytes."""
        # Unlike a copy, this leaves no descriptor behind that holds the room when it is emptied.
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                stat = os.statvfs(self._filler)
                free = stat.f_bavail * stat.f_frsize - left_bytes
                if free <= 0 or not file.write(bytes(min(free, 1 << 20))):
                    return

    def empty(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go: the disk is gone."""
        self._holder.kill()
        self._holder.communicate(timeout=10)
