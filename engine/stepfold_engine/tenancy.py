"""Tenancy: one partition, for as long as this process is to own it.

Recover, claim, run with everything that belongs to it, let go. A partition that was lost to
another process is claimed again only if the assignment, asked after the loss, still names it; one
whose log cannot be used for a while is opened again; one whose log is damaged stops alone.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepfold_engine.assignment import Assignment
from stepfold_engine.clock import Clock
from stepfold_engine.core.matching import Matching
from stepfold_engine.effects import ProcessEffects
from stepfold_engine.errors import CorruptLogError, FencedError, LogError, NewerReleaseError
from stepfold_engine.intake import Input
from stepfold_engine.log.base import Log
from stepfold_engine.lookbacks import LogLookbacks
from stepfold_engine.native import Native
from stepfold_engine.owner import Owner
from stepfold_engine.ownership import Claimant
from stepfold_engine.readers import Reader, Sharing, begin, readers_of
from stepfold_engine.restating import Restating
from stepfold_engine.senders import Sender
from stepfold_engine.settings import Settings

_log = logging.getLogger("stepfold")

AGAIN_S = 1.0
"""How long a partition rests that could not be opened, or was lost."""

RELEASE_S_MAX = 5.0


@dataclass(slots=True)
class House:
    """What all partitions of this process share.

    Attributes:
        partitions: of the journal and the inbox.
        sharing: what reads events, for all of them.
        events: every partition that they are read from.
        opened: hears of each partition that runs from then on.
        closed: hears of each that does not any more.
        stopped: hears of each that cannot go on, and why.
    """

    log: Log
    clock: Clock
    matching: Matching
    settings: Settings
    native: Native
    lookbacks: LogLookbacks
    effects: ProcessEffects
    assignment: Assignment
    claimant: Claimant
    partitions: int
    sharing: Sharing
    events: Sequence[Input]
    opened: Callable[[Owner], None]
    closed: Callable[[Owner], None]
    stopped: Callable[[int, Exception], None]


class Tenancy:
    """Owns one partition."""

    def __init__(self, house: House, number: int) -> None:
        self._house, self.number = house, number
        self._task: asyncio.Task[None] | None = None
        self.owner: Owner | None = None

    async def open(self) -> None:
        """Recover and claim the partition; nothing runs yet.

        Raises:
            FencedError: another process claims it, again and again.
            LogError: its log cannot be used.
        """
        house = self._house
        owner = Owner(house.log, house.clock, house.matching, house.effects, house.settings)
        reading = await owner.open(self.number, house.partitions, house.claimant, house.events)
        if reading.read > 100_000:
            _log.info("partition %d: %d records read", self.number, reading.read)
        await begin(house.log, owner, house.sharing.intake)
        self.owner = owner
        house.native.owns(owner)

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Run it from now on, in a task of this group."""
        self._task = tasks.create_task(self._keep())

    async def release(self) -> None:
        """Let the partition go cleanly: its code stops first."""
        await self._let_go()
        await self.end()

    async def _let_go(self) -> None:
        """Stop the partition's code, and write that it is released, if it still runs here."""
        house, owner = self._house, self.owner
        if owner is not None and owner.running and not owner.stalled:
            house.native.leave(self.number)
            house.native.give_up(self.number)
            with contextlib.suppress(LogError, FencedError, TimeoutError):
                async with asyncio.timeout(RELEASE_S_MAX):
                    await owner.release()

    def abandon(self) -> None:
        """End the task, whatever it does, and do not wait for it."""
        if self._task is not None:
            self._task.cancel()

    async def end(self) -> None:
        """End the task, whatever it does."""
        self.abandon()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _keep(self) -> None:
        house, number = self._house, self.number
        while True:
            try:
                await self._apart()
            except (CorruptLogError, NewerReleaseError) as error:
                house.stopped(number, error)
                return
            except LogError as error:
                _log.warning("partition %d is opened again: %s", number, error)
            except FencedError as error:
                if not await house.assignment.still_named(number):
                    house.native.give_up(number)
                    house.stopped(number, error)
                    return
                _log.warning("%s, but it is still this process's: claiming again", error)
            await asyncio.sleep(AGAIN_S)

    async def _apart(self) -> None:
        """Open the partition if it is not, and run it until it is lost.

        In a task of its own: a task group whose tasks fail while it is cancelled tells only of
        the failures, so whoever awaits it in the cancelled task would go on.
        """
        running = asyncio.ensure_future(self._opened())
        try:
            await asyncio.wait({running})
        finally:
            while not running.done():
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):  # once more; the first counts
                    await asyncio.wait({running})
            error = None if running.cancelled() else running.exception()
        if error is not None:
            raise error

    async def _opened(self) -> None:
        if self.owner is None:
            await self.open()
        await self._run()

    async def _run(self) -> None:
        """Run the partition until it is lost."""
        owner, house = self.owner, self._house
        assert owner is not None, "opened before it runs"
        try:
            async with asyncio.TaskGroup() as tasks:
                self._start(owner, tasks)
                house.opened(owner)
        except* (LogError, FencedError) as group:
            # One is enough to know what to do; what ends it for good matters most.
            final = (CorruptLogError, NewerReleaseError)
            errors = sorted(group.exceptions, key=lambda e: not isinstance(e, final))
            raise errors[0] from None
        finally:
            self.owner = None
            house.native.leave(self.number)
            house.effects.leave(self.number)
            house.closed(owner)

    def _start(self, owner: Owner, tasks: asyncio.TaskGroup) -> None:
        """Start everything that belongs to the partition."""
        house, number = self._house, self.number
        for destination in range(house.partitions):
            if destination != number:
                sender = Sender(house.log, owner, destination)
                house.effects.senders[number, destination] = sender
                tasks.create_task(sender.run())
                sender.confirm(owner.state.queued.get(destination, 0))
        tasks.create_task(owner.run())
        for reader in readers_of(house.log, owner, house.sharing, house.events):
            tasks.create_task(self._read(reader))
        tasks.create_task(Restating(house.log, owner, house.clock, house.settings).run())
        owner.resume_own_messages()
        for run in owner.state.runs:
            if any(o.held for o in run.operations.values()):
                house.lookbacks.resume(owner, run)

    async def _read(self, reader: Reader) -> None:
        """Read an input. A message of a newer release is for a process that can read it."""
        try:
            await reader.run()
        except NewerReleaseError:
            await self._let_go()
            raise
