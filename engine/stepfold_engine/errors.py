"""The engine's errors.

EngineError
├── LogError                     the log could not do what was asked
│   ├── AppendRefusedError       nothing was written
│   │   ├── RecordTooLargeError
│   │   └── LogFullError         no space, or the log's limit; goes on when there is
│   ├── AppendUnknownError       it may have been written, or may still be
│   ├── CorruptLogError          stored bytes are not what was written
│   ├── NewerReleaseError        a newer release wrote it; this one cannot read it
│   ├── LogLockedError           another process has the log open
│   └── LogSettingError          a setting of the log cannot be used
├── FencedError                  another process owns the partition now
├── RequestRefusedError          what a caller asked for is not possible; ``status`` says why
└── InvalidOptionError           a function's option or an expression cannot be used
"""


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""


class LogError(EngineError):
    """The log could not do what was asked."""


class AppendRefusedError(LogError):
    """An append was refused before anything was written; it may be tried again."""


class RecordTooLargeError(AppendRefusedError):
    """A record is larger than the log takes."""


class LogFullError(AppendRefusedError):
    """There is no space for the append."""


class AppendUnknownError(LogError):
    """An append failed in a way that leaves open whether it was, or will be, written."""


class CorruptLogError(LogError):
    """Stored bytes are not what was written.

    Attributes:
        topic: the topic of the damaged record.
        partition: its partition.
        offset: the first damaged offset, or -1 if not known.
    """

    def __init__(self, topic: str, partition: int, offset: int, what: str) -> None:
        super().__init__(f"{topic}/{partition} offset {offset}: {what}")
        self.topic, self.partition, self.offset = topic, partition, offset


class NewerReleaseError(LogError):
    """A record of an inbox or a journal is of a newer release: this process leaves the partition.

    Attributes:
        fingerprint: of the schema that is not known here.
    """

    def __init__(self, topic: str, partition: int, offset: int, fingerprint: str) -> None:
        super().__init__(
            f"{topic}/{partition} offset {offset} was written by a newer release of stepfold: its"
            f" schema (fingerprint {fingerprint}) is not known here. Upgrade this process, or let a"
            " process of the newer release own the partition; nothing is lost, and it goes on there"
        )
        self.fingerprint = fingerprint


class LogLockedError(LogError):
    """Another process has the log open; the message names it."""


class LogSettingError(LogError):
    """A setting of the log cannot be used.

    Attributes:
        setting: its name.
    """

    def __init__(self, setting: str, what: str) -> None:
        super().__init__(f"{setting}: {what}")
        self.setting = setting


class FencedError(EngineError):
    """Another process owns the partition now."""


class RequestRefusedError(EngineError):
    """What a caller asked for is not possible.

    Attributes:
        status: the HTTP status that says why (404 unknown, 409 conflict, 503 not now, …).
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class InvalidOptionError(EngineError):
    """A function's option or an expression cannot be used; the message says why."""
