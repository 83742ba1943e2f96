"""Gathering: histories of runs out of one partition's journal, read in order.

Pure: records go in, histories come out. What counts is decided as the fold decides it. Records
that say nothing about the runs that are wanted are not decoded.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stepfold.port import Fact
from stepfold_engine.core.fold import Cursor, claim_in, follow
from stepfold_engine.facts import facts_of
from stepfold_engine.recordings import ENDS, NO_BEGINNING, recorded
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    HistoryRestated,
    RunRestated,
    RunStarted,
)
from stepfold_schemas.ids import key_of
from stepfold_schemas.runfile import ExportedRun

_CLAIMS = tuple(
    header
    for header, name in codec.schema_headers().items()
    if name.partition(".v")[0] == "PartitionClaimed"
)

Accept = Callable[[bytes, str], bool]
"""Says whether a run, given by its id and its function, is wanted."""


@dataclass(slots=True)
class _History:
    """What was found of one run: its decisions in the order of its code, and their facts.

    Until it has ``begun``, the order is not known.
    """

    run: bytes
    begun: bool = False
    seqs: list[int] = field(default_factory=list[int])
    facts: dict[int, list[Fact]] = field(default_factory=dict[int, list[Fact]])


def beginning(value: bytes, offset: int, start: int) -> int:
    """Return an offset, at or before a record's, from which its journal may be followed.

    Every record says from where a fold may begin: there lies a record that counts.

    Args:
        value: the record's.
        offset: where it lies.
        start: the journal's first readable offset.

    Raises:
        UndecodableError: the record is damaged.
    """
    return min(max(codec.decode_decision(value).fold_from, start), offset)


class Gatherer:
    """Keeps the histories of the runs that are wanted.

    Args:
        at_start: the first record that it is given is the journal's very first; else it is one
            that counts, such as the first of a round.
        keys: the keys of the wanted runs, if they are known.
        accept: says of every run whether it is wanted, if they are not.
    """

    def __init__(
        self, *, at_start: bool, keys: Iterable[bytes] = (), accept: Accept | None = None
    ) -> None:
        self._cursor: Cursor | None = Cursor() if at_start else None
        self._keys, self._accept = frozenset(keys), accept
        self._found: dict[bytes, _History] = {}
        self._refused: set[bytes] = set()
        self._left = set(self._keys)

    @property
    def done(self) -> bool:
        """Whether all runs that are wanted have ended: nothing more will be said of them."""
        return self._accept is None and not self._left

    def take(self, values: Iterable[bytes]) -> None:
        """Take the next records.

        Raises:
            UndecodableError: one of them is damaged.
        """
        for value in values:
            concerns = self._concerns(value)
            peeked = None if concerns else codec.peek_decision(value)
            if peeked is None:
                decision = codec.decode_decision(value)
            else:
                decision = Decision(*peeked, 0, 0, [], [])
            if self._cursor is None:
                claims = claim_in(decision) is not None
                self._cursor = Cursor(decision.epoch - claims, decision.seq - 1 + claims)
            if follow(self._cursor, decision) and concerns and claim_in(decision) is None:
                self._note(decision)

    def _concerns(self, value: bytes) -> bool:
        if self._accept is not None:
            return True
        return any(key in value for key in self._keys) or any(c in value for c in _CLAIMS)

    def _note(self, decision: Decision) -> None:
        for entry in decision.entries:
            if isinstance(entry, RunStarted):
                self._begin(entry.run, entry.function, [decision.seq])
            elif isinstance(entry, RunRestated):
                self._begin(entry.run, entry.function, entry.seqs)
            elif isinstance(entry, HistoryRestated):
                self._splice(entry, decision.seq)
        for run, fact in facts_of(decision):
            history = self._history(run)
            if history is not None:
                self._add(history, fact)

    def _history(self, run: bytes) -> _History | None:
        """Return where to note what concerns a run; None if the run is not wanted.

        Of a run that goes on since before the first record, a round may copy the history before it
        says which function it is of.
        """
        key = key_of(run)
        history = self._found.get(key)
        if history is None and key not in self._refused:
            if self._accept is None and key not in self._keys:
                return None
            history = self._found[key] = _History(run)
        return history

    def _begin(self, run: bytes, function: str, seqs: Sequence[int]) -> None:
        history = self._history(run)
        if history is None or history.begun:
            return
        if self._accept is not None and not self._accept(run, function):
            self._refused.add(key_of(run))
            del self._found[key_of(run)]
            return
        history.begun, history.seqs = True, list(seqs)

    def _splice(self, entry: HistoryRestated, seq: int) -> None:
        history = self._history(entry.run)
        if history is not None and history.begun:
            before, after = history.seqs[: entry.skips], entry.skips + entry.replaces
            history.seqs = [*before, seq, *history.seqs[after:]]

    def _add(self, history: _History, fact: Fact) -> None:
        history.facts.setdefault(fact.seq, []).append(fact)
        if fact.seq not in history.seqs[-2:] and fact.seq not in history.seqs:
            history.seqs.append(fact.seq)
        if isinstance(fact.entry, ENDS):
            self._left.discard(key_of(history.run))

    def runs(self, *, asked: bool = True) -> list[ExportedRun]:
        """Return the whole histories, in the order in which they were met; see ``incomplete``."""
        whole = [h for h in self._found.values() if not _missing(h)]
        return [recorded(_ordered(h), asked=asked) for h in whole]

    def incomplete(self) -> dict[bytes, str]:
        """Return the runs that were met but whose history is not whole, with the reason."""
        return {h.run: NO_BEGINNING for h in self._found.values() if _missing(h)}


def _ordered(history: _History) -> list[Fact]:
    return [fact for seq in history.seqs for fact in history.facts.get(seq, ())]


def _missing(history: _History) -> bool:
    if not history.begun or any(seq not in history.facts for seq in history.seqs):
        return True
    facts = _ordered(history)
    return not facts or not isinstance(facts[0].entry, RunStarted)
