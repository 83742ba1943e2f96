"""Asking a group whose a static member's name is: the heartbeat that says the name, too.

aiokafka's heartbeats do not say it, so a member that slept hears the same, "unknown", whether its
session has ended or another process has joined under its name. Source: Kafka's protocol, Heartbeat
version 3 (KIP-345), and its errors FENCED_INSTANCE_ID and UNKNOWN_MEMBER_ID.
"""

# aiokafka has no types of its own, and declares as properties what its classes give as values.
# pyright: reportAssignmentType=false, reportIncompatibleMethodOverride=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUntypedBaseClass=false

from dataclasses import dataclass
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Int16, Int32, Schema, String

FENCED_INSTANCE_ID = 82


class NamedHeartbeatResponse(Response):  # type: ignore[misc] # it has no types
    """The answer: an error's number, 0 if the member is one."""

    API_KEY = 12
    API_VERSION = 3
    SCHEMA = Schema(("throttle_time_ms", Int32), ("error_code", Int16))


class NamedHeartbeatStruct(RequestStruct):  # type: ignore[misc] # it has no types
    """The bytes of the request."""

    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = NamedHeartbeatResponse
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """What a member was when the group last assigned something to it."""

    group: str
    generation: int
    member: str
    name: str


class NamedHeartbeat(Request[NamedHeartbeatStruct]):  # type: ignore[misc] # it has no types
    """A heartbeat of a member with a name."""

    API_KEY = 12

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def build(self, request_struct_class: type[NamedHeartbeatStruct]) -> NamedHeartbeatStruct:
        """Return what is sent."""
        s = self._standing
        return request_struct_class(s.group, s.generation, s.member, s.name)


async def is_replaced(coordinator: Any, standing: Standing) -> bool:
    """Ask the group whether another member has the name now.

    Raises:
        KafkaError: it cannot be asked.
    """
    await coordinator.ensure_coordinator_known()
    answer = await coordinator._send_req(NamedHeartbeat(standing))  # noqa: SLF001 - no other way
    return bool(answer.error_code == FENCED_INSTANCE_ID)
