"""Histories: a run's facts, read back from the journal."""

from stepfold.port import Fact
from stepfold_engine.core.fold import claim_in
from stepfold_engine.core.run import Run
from stepfold_engine.errors import CorruptLogError
from stepfold_engine.facts import facts_of
from stepfold_engine.log.base import JOURNAL, Log
from stepfold_engine.owner import Owner
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision
from stepfold_schemas.ids import key_of


async def read_decision(log: Log, owner: Owner, seq: int) -> tuple[int, Decision]:
    """Read the accepted decision with this seq; return it with its offset.

    Its offset is known as a lower bound: void records may lie before it. Among records with the
    same seq the accepted one is that of the highest epoch, since a newer term's decisions come
    only after a claim that voids the older's.

    Raises:
        CorruptLogError: it is damaged, or no longer there.
    """
    number = owner.state.number
    start = (await log.bounds(JOURNAL, number)).start
    offset = max(start, owner.state.offset_hint(seq))
    while True:
        batch = await log.read(JOURNAL, number, offset, bytes_max=1)
        if not batch.records or batch.start > offset:
            text = f"the record with seq {seq} is missing from the journal"
            raise CorruptLogError(JOURNAL, number, offset, text)
        record = batch.records[0]
        decision = codec.decode_decision(record.value)
        if decision.seq == seq and claim_in(decision) is None:
            return record.offset, decision
        if decision.seq > seq:
            text = f"the record with seq {seq} is missing from the journal"
            raise CorruptLogError(JOURNAL, number, offset, text)
        offset = record.offset + 1


async def read_history(log: Log, owner: Owner, run: Run, through: int) -> list[Fact]:
    """Read the facts of a run from the decisions up to ``through``, in order.

    Raises:
        CorruptLogError: one of them is damaged, or no longer there.
    """
    key = key_of(run.id)
    facts: list[Fact] = []
    for seq in run.seqs:
        if seq <= through:
            _, decision = await read_decision(log, owner, seq)
            facts.extend(fact for of, fact in facts_of(decision) if key_of(of) == key)
    return facts
