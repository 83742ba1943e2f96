"""Owners: each term has one, who alone writes its records; clocks are as the set-up says."""

from stepfold_schemas.entries import PartitionClaimed
from tests.simulation.audit.findings import CLOCK, OWNER
from tests.simulation.audit.world import World


def check(world: World) -> None:
    """Check who wrote what counts, and when."""
    for journal in world.journals:
        owner = ""
        nonces: dict[bytes, int] = {}
        for kept in journal.kept:
            decision = kept.decision
            first = decision.entries[0] if decision.entries else None
            if isinstance(first, PartitionClaimed):
                owner = kept.by
                if first.nonce in nonces:
                    text = f"{kept} has the nonce of the claim at offset {nonces[first.nonce]}"
                    world.findings.add(OWNER, text, order=kept.order)
                nonces[first.nonce] = kept.offset
            elif kept.by != owner:
                text = f"{kept} counts and is by {kept.by}; epoch {decision.epoch} is {owner}'s"
                world.findings.add(OWNER, text, order=kept.order)
            if decision.at_ms > kept.log_ms + world.setup.clock_skew_ms:
                text = f"{kept} is of {decision.at_ms - kept.log_ms} ms after it was durable"
                world.findings.add(CLOCK, text, order=kept.order)
