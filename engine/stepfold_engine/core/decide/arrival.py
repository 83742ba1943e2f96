"""What the handlers of a message share while they gather the decision."""

from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import json_bytes
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_schemas.entries import RequestAnswered


class Arrival:
    """A message that is being decided."""

    __slots__ = ("draft", "matching", "now_ms", "request", "state")

    def __init__(self, state: Partition, request: bytes, matching: Matching, now_ms: int) -> None:
        self.state = state
        self.request = request
        self.matching = matching
        self.now_ms = now_ms
        self.draft = Draft(state)

    def answer(self, status: int, body: dict[str, object], request: bytes = b"") -> None:
        """Answer the request."""
        request = request or self.request
        if request:
            answered = RequestAnswered(request, self.now_ms, status, json_bytes(body))
            self.draft.add(answered)
