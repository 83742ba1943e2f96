"""The group: who is to own which partition, as a consumer group would say.

It hears of a death only when a process has been silent for a while, and what it says is advice: a
process that was stopped goes on believing what it heard last.
"""

import asyncio


class Group:
    """Shares partitions among the members that it believes to live."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.owners: dict[int, str] = {}
        self._members: dict[str, Member] = {}

    def join(self, member: "Member") -> None:
        """A process begins to live; it takes over what its name had."""
        self._members[member.name] = member
        self._share()

    def leave(self, name: str) -> None:
        """A process is believed to be dead."""
        if self._members.pop(name, None) is not None:
            self._share()

    def move(self, partition: int, name: str) -> None:
        """Give a partition to another member, as a rebalance does."""
        if name in self._members:
            self.owners[partition] = name
            self._tell()

    @property
    def members(self) -> list[str]:
        return sorted(self._members)

    def _share(self) -> None:
        """Keep what is in good hands; spread the rest, and what one has too many of."""
        names = self.members
        if not names:
            self.owners = {}
            return
        held: dict[str, list[int]] = {name: [] for name in names}
        homeless: list[int] = []
        for partition in range(self.partitions):
            owner = self.owners.get(partition, "")
            if len(held.get(owner, [])) < -(-self.partitions // len(names)) and owner in held:
                held[owner].append(partition)
            else:
                homeless.append(partition)
        for partition in homeless:
            least = min(names, key=lambda name: (len(held[name]), name))
            held[least].append(partition)
        self.owners = {p: name for name, some in held.items() for p in some}
        self._tell()

    def _tell(self) -> None:
        for member in self._members.values():
            member.hear()

    def of(self, member: "Member") -> frozenset[int]:
        """Return what a member is to own; one that was replaced or given up owns nothing."""
        if self._members.get(member.name) is not member:
            return frozenset()
        return frozenset(p for p, name in self.owners.items() if name == member.name)


class Member:
    """One process's view of the group (``assignment.Assignment``)."""

    def __init__(self, group: Group, name: str) -> None:
        self.name, self._group = name, group
        self._news = asyncio.Event()

    def hear(self) -> None:
        """Something has changed."""
        self._news.set()

    async def named(self) -> frozenset[int]:
        self._news.clear()
        await asyncio.sleep(0.002)
        return self._group.of(self)

    async def changed(self) -> None:
        await self._news.wait()

    async def still_named(self, partition: int) -> bool:
        await asyncio.sleep(0.005)
        return partition in self._group.of(self)
