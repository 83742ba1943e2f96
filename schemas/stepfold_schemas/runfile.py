"""Run files: runs with their journals, taken out of a log, in one Avro object container file.

A file holds everything that is needed to replay its runs. It knows nothing of the program that ran
them: a function may have run in this process, or been called over HTTP.
"""

from dataclasses import dataclass, field

from stepfold_schemas.entries import Invoker

FORMAT = 1
"""The version of the container's metadata."""

COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
STOPPED, UNFINISHED = "stopped", "unfinished"
STATUSES = (COMPLETED, FAILED, CANCELLED, STOPPED, UNFINISHED)


@dataclass(frozen=True, slots=True)
class JournalItem:
    """An entry of a run's journal: where and when it was recorded, its type, and its bytes.

    ``type`` names the entry's class for people who look into the file; the bytes say it again.
    """

    seq: int
    place: int
    at_ms: int
    type: str
    entry: bytes


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """One run of a file.

    Attributes:
        run: the run's id.
        function: the function's full id.
        version: the function's version when the run started.
        fingerprint: that of its code then.
        status: ``completed``, ``failed``, ``cancelled``, ``stopped`` or ``unfinished``.
        started_ms: when it started.
        ended_ms: when it ended; 0 if it has not.
        partition: the partition that it lives in.
        asked: somebody asked for it; else it came along, because one of them invoked it.
        gaps: what is missing of its history, in words; "" if it is whole.
        redacted: the paths whose values were replaced.
        invoker: the step that invoked it.
        journal: its entries, in the order in which its code met them.
    """

    run: bytes
    function: str
    version: str
    fingerprint: str
    status: str
    started_ms: int
    ended_ms: int
    partition: int
    asked: bool
    gaps: str
    redacted: list[str]
    invoker: Invoker | None = None
    journal: list[JournalItem] = field(default_factory=list[JournalItem])


@dataclass(frozen=True, slots=True)
class RunFile:
    """What a file holds.

    Attributes:
        runs: those that were asked for first.
        made_by: the release of stepfold that wrote it.
        made_ms: when.
        source: where the runs come from, in words.
    """

    runs: list[ExportedRun]
    made_by: str = ""
    made_ms: int = 0
    source: str = ""

    @property
    def first(self) -> ExportedRun:
        """The run that was asked for."""
        return self.runs[0]
