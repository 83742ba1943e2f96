"""An embedded log's folder, read without an engine, or beside one (``journals.Journals``)."""

from pathlib import Path

from stepfold_engine.errors import LogError
from stepfold_engine.log.base import Batch, Bounds, Record
from stepfold_engine.sources import FolderSource
from stepfold_projections.source import SourceError

RECORDS_MAX = 20_000


class FolderJournals:
    """Reads the journals in a folder."""

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            LogError: there is no log, or it cannot be opened.
        """
        try:
            self._source = FolderSource(folder)
        except SourceError as error:
            raise LogError(str(error)) from error

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return self._source.partitions(topic)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        try:
            return Bounds(*self._source.bounds(topic, partition))
        except SourceError as error:
            raise LogError(str(error)) from error

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        bounds = await self.bounds(topic, partition)
        low, high = bounds.start, bounds.end
        while low < high:
            middle = (low + high) // 2
            found = self._read(topic, partition, middle, 1)
            if not found.records or found.records[0].at_ms >= at_ms:
                high = middle
            else:
                low = found.records[0].offset + 1
        return low

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset; it never waits for more."""
        del wait_ms
        return self._read(topic, partition, offset, 1 if bytes_max <= 1 else RECORDS_MAX)

    def _read(self, topic: str, partition: int, offset: int, records_max: int) -> Batch:
        try:
            found = self._source.read(topic, partition, offset, records_max)
        except SourceError as error:
            raise LogError(str(error)) from error
        columns = zip(found.offsets, found.times_ms, found.values, strict=True)
        return Batch([Record(*row) for row in columns], found.next_offset, found.start)
