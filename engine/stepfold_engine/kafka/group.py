"""Which partitions this process is to own: those that a consumer group assigns to it.

The member lives on an event loop in a thread of its own, so nothing that this process does, be it
a minute of blocking, makes the group believe that it is dead. What the group says is advice
(``assignment.Assignment``): while it shares out anew, and while it cannot be reached, what was
said last holds, and the journal's own fencing decides.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from stepfold_engine.errors import LogError
from stepfold_engine.kafka.client import KafkaError
from stepfold_engine.kafka.connection import client_arguments
from stepfold_engine.kafka.membership import Member, MemberOptions, ReplacedError, Told
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import JOURNAL

_log = logging.getLogger("stepfold")
_T = TypeVar("_T")

SESSION_MS = 10_000
HEARTBEAT_MS = 1_000
AGAIN_S = 1.0
LEAVE_S = 10.0


class GroupAssignment:
    """The partitions of one member (``assignment.Assignment``). Make it with ``join``.

    Args:
        properties: of the client.
        names: of the topics, and of the group.
        node: the name under which partitions are kept for this process while it restarts; "" for
            a process that comes and goes.
    """

    def __init__(self, properties: ClientProperties, names: TopicNames, node: str) -> None:
        self._arguments = client_arguments(properties)
        self._options = MemberOptions(
            topic=names.of(JOURNAL),
            group=names.group,
            name=node,
            session_ms=properties.number("session.timeout.ms", SESSION_MS),
            heartbeat_ms=properties.number("heartbeat.interval.ms", HEARTBEAT_MS),
        )
        self._engine = asyncio.get_running_loop()
        self._named: frozenset[int] | None = None
        self._failed = ""
        self._news = asyncio.Event()
        self._joined = asyncio.Event()
        self._stopping = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._member: Member | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="stepfold-group", daemon=True)

    @classmethod
    async def join(cls, properties: ClientProperties, names: TopicNames, node: str = "") -> Self:
        """Join the group; return once it has assigned something, be it nothing.

        Raises:
            LogError: the group cannot be joined.
        """
        group = cls(properties, names, node)
        group._thread.start()
        try:
            await group._joined.wait()
            group._check()
        except BaseException:
            await group.close()
            raise
        return group

    # The engine's side.

    async def named(self) -> frozenset[int]:
        """Return the partitions that this process is to own now.

        Raises:
            LogError: another process has joined under this one's name.
        """
        self._news.clear()
        self._check()
        return self._named or frozenset()

    async def changed(self) -> None:
        """Wait until what ``named`` returns may be another."""
        await self._news.wait()

    async def still_named(self, partition: int) -> bool:
        """Ask the group anew whether a partition is this process's; wait until it can say."""
        while not self._failed and not self._loop.is_closed():
            try:
                return await self._ask(lambda member: member.confirm(partition))
            except KafkaError as error:
                _log.warning("the group %s cannot be asked: %r", self._options.group, error)
                await asyncio.sleep(AGAIN_S)
        return False

    async def tell(self, told: Told) -> None:
        """Tell the group how far this process's partitions have read, for lag tools."""
        try:
            await self._ask(lambda member: member.tell(told))
        except KafkaError as error:
            _log.warning("the group %s is not told how far is read: %r", self._options.group, error)

    async def _ask(self, question: Callable[[Member], Coroutine[Any, Any, _T]]) -> _T:
        """Ask the member, in its thread."""

        async def asked() -> _T:
            if self._member is None:
                raise KafkaError("not joined")
            return await question(self._member)

        asking = asyncio.run_coroutine_threadsafe(asked(), self._loop)
        try:
            return await asyncio.wrap_future(asking)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise KafkaError("the group was left meanwhile") from None

    def _check(self) -> None:
        if self._failed:
            raise LogError(self._failed)

    async def close(self) -> None:
        """Leave the group, and end the thread."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, LEAVE_S)

    # The group's side: everything from here on runs in the thread.

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live())
        finally:
            self._tell(self._failed or "the group was left")

    async def _live(self) -> None:
        """Take part until told to stop."""
        while not self._stopping.is_set():
            self._member = Member(self._arguments, self._options, self._assigned)
            try:
                await self._member.start()
                while not self._stopping.is_set():
                    await self._member.poll()
            except ReplacedError:
                self._failed = (
                    f"another process has joined the group {self._options.group} under this"
                    f" process's name {self._options.name!r}; give each its own"
                )
            except (KafkaError, OSError) as error:
                _log.warning("the group %s cannot be used: %r", self._options.group, error)
                if self._named is None:
                    self._failed = f"the group {self._options.group} cannot be joined: {error!r}"
                else:
                    await asyncio.sleep(AGAIN_S)
            finally:
                await self._member.stop()
            if self._failed:
                return

    def _assigned(self, partitions: frozenset[int]) -> None:
        _log.info("the group %s assigns %s", self._options.group, sorted(partitions))
        self._engine.call_soon_threadsafe(self._hear, partitions)

    def _tell(self, failed: str) -> None:
        try:
            self._engine.call_soon_threadsafe(self._hear_end, failed)
        except RuntimeError:
            _log.debug("the engine's loop has ended before the group's")

    # In the engine's loop again.

    def _hear(self, partitions: frozenset[int]) -> None:
        self._named = partitions
        self._joined.set()
        self._news.set()

    def _hear_end(self, failed: str) -> None:
        self._failed = failed
        self._joined.set()
        self._news.set()
