"""No history: what a process answers that keeps no index of runs, and why it keeps none.

A process that shares a log with others sees the decisions of its own partitions only, and only
while they are its own. An index of these would have runs without their beginnings and miss others,
and nobody could tell which; so there is none, and who asks is told where to look.
"""

from typing import NoReturn

from stepfold.port import Fact
from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.history.views import Outcome, RunFilter, RunView

NOT_HERE = (
    "a process that shares its log with others keeps no index of runs: it sees only the partitions"
    " that it owns. Copy the log (stepfold log copy) and ask the copy (stepfold sql --data); one"
    " run can be exported from Kafka directly (stepfold export --kafka)"
)
NOT_IMPLEMENTED = 501


class NoHistory:
    """Refuses every question that ``History`` answers."""

    @property
    def complete(self) -> bool:
        """Say that no journal was taken in."""
        return False

    async def run(self, run: bytes) -> RunView | None:
        """Refuse."""
        del run
        _refuse()

    async def runs(self, asked: RunFilter) -> list[RunView]:
        """Refuse."""
        del asked
        _refuse()

    async def runs_of_event(self, event: str) -> list[RunView]:
        """Refuse."""
        del event
        _refuse()

    async def named(self, text: str) -> list[bytes]:
        """Refuse."""
        raise RequestRefusedError(NOT_IMPLEMENTED, f"{text}: give the whole id. {NOT_HERE}")

    async def timeline(self, view: RunView) -> list[Fact]:
        """Refuse."""
        del view
        _refuse()

    async def outcome(self, view: RunView) -> Outcome | None:
        """Refuse."""
        del view
        _refuse()


def _refuse() -> NoReturn:
    raise RequestRefusedError(NOT_IMPLEMENTED, NOT_HERE)
