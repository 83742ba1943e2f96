"""Recordings of finished runs out of a journal, for the history behind SQL."""

from collections.abc import Iterator, Sequence

from stepfold_engine.exporting.gathering import Gatherer, beginning
from stepfold_engine.log.base import JOURNAL
from stepfold_projections.recordings import Whereabouts
from stepfold_projections.source import Source, SourceError
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.ids import key_of, parse_ulid, ulid_text

RECORDS = 20_000


class JournalRecorder:
    """Reads a log's journals (``stepfold_projections.recordings.Recorder``)."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def record(self, runs: Sequence[Whereabouts]) -> Iterator[tuple[str, bytes]]:
        """Yield runs of one journal with their recordings; see the protocol."""
        partition = runs[0].partition
        start = self._source.bounds(JOURNAL, partition)[0]
        offset = max(min(run.first_offset for run in runs), start)
        end = max(run.last_offset for run in runs) + 1
        try:
            if first := self._source.read(JOURNAL, partition, offset, 1).values:
                offset = beginning(first[0], offset, start)
            keys = {key_of(parse_ulid(run.run)) for run in runs}
            gatherer = Gatherer(at_start=offset == 0, keys=keys)
            while offset < end and not gatherer.done:
                batch = self._source.read(JOURNAL, partition, offset, min(RECORDS, end - offset))
                if batch.next_offset <= offset:
                    break
                gatherer.take(batch.values)
                offset = batch.next_offset
        except UndecodableError as error:
            raise SourceError(f"journal/{partition}, offset {offset}: {error}") from error
        for run in gatherer.runs():
            yield ulid_text(run.run), codec.encode(run)
