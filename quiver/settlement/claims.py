"""Which channels are worth claiming now. Pure: the caller knows the states, the acknowledgements and what a claim costs."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from quiver.settlement.channel import compute_due
from quiver.values.ledger import ChannelState
from quiver.values.receipt import Acknowledgement


class Claimable(msgspec.Struct, frozen=True, kw_only=True):
    """A channel as its provider sees it."""

    state: ChannelState
    acknowledgement: Acknowledgement
    "The newest one of this channel."
    committed: Acknowledgement | None = None
    "The newest one whose leaf is in a committed epoch and whose proof is at hand."


class PlannedClaim(msgspec.Struct, frozen=True, kw_only=True):
    """One claim to send. `direct` means without a proof."""

    acknowledgement: Acknowledgement
    due: int
    direct: bool
    urgent: bool
    "The payer is leaving; what is not claimed before `exit_at_ms` is lost."


def plan_claims(
    candidates: Iterable[Claimable], *, cost_credits: int, worth_factor: int = 10, claims_max: int = 64
) -> tuple[PlannedClaim, ...]:
    """Claims to send now, urgent first, then by amount, then by channel; at most `claims_max`.

    An ordinary claim goes with its proof and must bring at least `worth_factor` times `cost_credits`. A claim on a channel whose
    exit is pending goes directly and needs only to bring more than it costs: the next epoch may come too late.
    """
    planned = []
    for candidate in candidates:
        state = candidate.state
        if state.closed:
            continue
        urgent = state.exit_at_ms is not None
        ack = candidate.acknowledgement if urgent else candidate.committed
        if ack is None:
            continue
        due = compute_due(state, ack.cum)
        if due > (cost_credits if urgent else max(0, worth_factor * cost_credits - 1)):
            planned.append(PlannedClaim(acknowledgement=ack, due=due, direct=urgent, urgent=urgent))
    planned.sort(key=lambda claim: (not claim.urgent, -claim.due, claim.acknowledgement.channel))
    return tuple(planned[:claims_max])
