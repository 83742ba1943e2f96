"""Messages to other partitions: one task a destination, in order, again after any failure."""

import asyncio
import logging

from stepfold_engine.errors import LogError, RecordTooLargeError
from stepfold_engine.log.base import INBOX, Log, NewRecord
from stepfold_engine.owner import Owner
from stepfold_schemas import codec
from stepfold_schemas.messages import Letter, MessageUndeliverable

_log = logging.getLogger("stepfold")

MESSAGES_A_BATCH_MAX = 500
RETRY_S_MAX = 10.0


class Sender:
    """Sends one partition's messages to one other, in the order of their numbers."""

    def __init__(self, log: Log, owner: Owner, destination: int) -> None:
        self._log, self._owner, self._destination = log, owner, destination
        self._confirmed = 0
        self._sent = 0
        self._wake = asyncio.Event()

    def confirm(self, number: int) -> None:
        """Messages up to this number are in the journal and may go."""
        self._confirmed = max(self._confirmed, number)
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        delay_s = 0.05
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._next():
                try:
                    await self._send(batch)
                    delay_s = 0.05
                except LogError as error:
                    _log.warning(
                        "messages of partition %d for %d wait: %s",
                        self._owner.state.number,
                        self._destination,
                        error,
                    )
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, RETRY_S_MAX)

    def _next(self) -> list[tuple[int, bytes]]:
        unsent = self._owner.state.unsent.get(self._destination, {})
        numbers = sorted(n for n in unsent if self._sent < n <= self._confirmed)
        return [(n, unsent[n]) for n in numbers[:MESSAGES_A_BATCH_MAX]]

    async def _send(self, batch: list[tuple[int, bytes]]) -> None:
        source = self._owner.state.number
        records = [NewRecord(codec.encode(Letter(source, n, b"", m))) for n, m in batch]
        try:
            await self._log.append(INBOX, self._destination, records)
        except RecordTooLargeError:
            await self._send_singly(batch)
        self._sent = batch[-1][0]
        self._owner.messages_sent(self._destination, self._sent)

    async def _send_singly(self, batch: list[tuple[int, bytes]]) -> None:
        """Send one by one; in place of one that is too large an error takes its number."""
        source = self._owner.state.number
        for number, message in batch:
            record = NewRecord(codec.encode(Letter(source, number, b"", message)))
            try:
                await self._log.append(INBOX, self._destination, [record])
            except RecordTooLargeError as error:
                _log.error("message %d to partition %d: %s", number, self._destination, error)
                lost = codec.encode(MessageUndeliverable(str(error)))
                letter = codec.encode(Letter(source, number, b"", lost))
                await self._log.append(INBOX, self._destination, [NewRecord(letter)])


async def request(log: Log, partition: int, request_id: bytes, message: bytes) -> None:
    """Put a request into a partition's inbox.

    Raises:
        AppendRefusedError: nothing was written.
        LogError: it may have been; the same request id may be sent again.
    """
    letter = Letter(-1, 0, request_id, message)
    await log.append(INBOX, partition, [NewRecord(codec.encode(letter))])
