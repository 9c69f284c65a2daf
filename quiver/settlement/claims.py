"""Which channels are worth claiming now, and in what transactions. Pure: the caller knows states, acknowledgements and prices.

Rules of this file: no clock (callers pass `now_ms`). A signature that the contract would refuse never gets into a batch, because
it would spoil the claims of others: after a session key is rotated, what the old key signed pays no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from quiver.ids import Address, ChannelId
from quiver.settlement.channel import compute_due, session_at
from quiver.settlement.channels import CLAIMS_PER_BATCH_MAX
from quiver.settlement.multiproof import combine
from quiver.units import ms_from_s
from quiver.values.ledger import (
    ChannelState,
    Claim,
    ClaimBatch,
    ClaimDirect,
    ClaimDirectBatch,
    Leaf,
    Proof,
    Transaction,
)
from quiver.values.receipt import Acknowledgement

# Of one claim with its proof in a tree of 2^20 leaves, as measured (docs/decisions/003-contract.md); in a batch it is less.
GAS_PER_CLAIM = 71_180
# Around a key's change our clock and the block's may disagree: such a channel is claimed by itself.
ROTATION_MARGIN_MS = 600_000


class ClaimPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When an operator wants its money on the account. All amounts are credits."""

    amount_min: int = 1
    "Less than this is left to grow."
    age_s_max: float = 86_400.0
    "What has been due for this long is claimed however little it is, without a proof if none came, if it brings more than it costs."
    cost_credits: int = 0
    "What one claim costs beside gas."
    worth_factor: int = 10
    "A claim that may wait brings at least this many times its cost."
    wei_per_credit: int = 0
    "Turns gas into credits; 0: gas is not counted."
    gas_price_wei_max: int = 0
    "While gas is dearer, claims that may wait do, up to `age_s_max`; 0: at any price."

    def cost(self, gas_price_wei: int) -> int:
        """Credits one claim costs at this gas price."""
        gas = -(-GAS_PER_CLAIM * gas_price_wei // self.wei_per_credit) if self.wei_per_credit else 0
        return self.cost_credits + gas

    def is_dear(self, gas_price_wei: int) -> bool:
        """Gas costs more than the operator wants to pay."""
        return 0 < self.gas_price_wei_max < gas_price_wei


class Claimable(msgspec.Struct, frozen=True, kw_only=True):
    """A channel as its provider sees it."""

    state: ChannelState
    acknowledgement: Acknowledgement
    "The newest one of this channel."
    committed: Acknowledgement | None = None
    "The newest one whose leaf is in a committed epoch and whose proof is at hand."
    since_ms: int | None = None
    "utc_ms since when something was due without a break; None: from now on."
    signed_by: Address | None = None
    "Whose signature `acknowledgement` carries; None: of the only key the channel ever had."
    committed_by: Address | None = None
    "The same of `committed`."


class PlannedClaim(msgspec.Struct, frozen=True, kw_only=True):
    """One claim to send. `direct` means without a proof."""

    acknowledgement: Acknowledgement
    due: int
    direct: bool
    urgent: bool
    "What is not claimed before `last_ms` is lost."
    alone: bool = False
    "In no batch: the contract may judge its key otherwise than we do."
    last_ms: int | None = None


def claim_by_ms(candidate: Claimable) -> int | None:
    """utc_ms after which the newest acknowledgement pays no more: the payer's exit, or the key it is signed with goes."""
    state = candidate.state
    limits = [] if state.exit_at_ms is None else [state.exit_at_ms]
    if state.rotates_at_ms is not None and candidate.signed_by == state.session != state.next_session:
        limits.append(state.rotates_at_ms)
    return min(limits, default=None)


def plan_claims(
    candidates: Iterable[Claimable],
    *,
    policy: ClaimPolicy,
    now_ms: int,
    gas_price_wei: int = 0,
    claims_max: int = CLAIMS_PER_BATCH_MAX,
) -> tuple[PlannedClaim, ...]:
    """Claims to send now, urgent first, then by amount, then by channel; at most `claims_max`.

    An ordinary claim goes with its proof. One on a channel whose payer is leaving goes directly and needs only to bring more than
    it costs: the next epoch may come too late. So does one that is too old: nobody can withhold a provider's pay.
    """
    planned = []
    for candidate in candidates:
        if (claim := _plan(candidate, policy, now_ms, gas_price_wei)) is not None:
            planned.append(claim)
    planned.sort(key=lambda claim: (not claim.urgent, -claim.due, claim.acknowledgement.channel))
    return tuple(planned[:claims_max])


def _plan(candidate: Claimable, policy: ClaimPolicy, now_ms: int, gas_price_wei: int) -> PlannedClaim | None:
    state = candidate.state
    if state.closed:
        return None
    newest = candidate.acknowledgement if _pays(state, candidate.signed_by, now_ms) else None
    committed = candidate.committed if _pays(state, candidate.committed_by, now_ms) else None
    last_ms = claim_by_ms(candidate)
    aged = candidate.since_ms is not None and now_ms - candidate.since_ms >= ms_from_s(policy.age_s_max)
    urgent = last_ms is not None
    ack = committed
    if newest is not None and (urgent or (aged and (committed is None or newest.cum > committed.cum))):
        ack = newest
    if ack is None:
        return None
    due, cost = compute_due(state, ack.cum), policy.cost(gas_price_wei)
    enough = due >= max(1, policy.amount_min, policy.worth_factor * cost) and not policy.is_dear(gas_price_wei)
    if not (enough or ((urgent or aged) and due > cost)):
        return None
    return PlannedClaim(
        acknowledgement=ack, due=due, direct=ack is not committed, urgent=urgent, last_ms=last_ms,
        alone=state.rotates_at_ms is not None and abs(state.rotates_at_ms - now_ms) <= ROTATION_MARGIN_MS,
    )  # fmt: skip


def _pays(state: ChannelState, signed_by: Address | None, now_ms: int) -> bool:
    """Whether the contract takes this key's signature now."""
    return signed_by is None or signed_by == session_at(state, now_ms)


def make_transactions(
    planned: Sequence[PlannedClaim], proofs: Mapping[ChannelId, tuple[Leaf, Proof]], sender: Address
) -> list[tuple[Transaction, tuple[PlannedClaim, ...]]]:
    """The claims in as few transactions as the contract takes: by epoch under one proof, direct ones together.

    Each comes with what it claims, so that the claims of a refused batch can be sent one by one.
    """
    direct = [claim for claim in planned if claim.direct and not claim.alone]
    epochs: dict[int, list[PlannedClaim]] = {}
    for claim in planned:
        if not claim.direct and not claim.alone:
            epochs.setdefault(proofs[claim.acknowledgement.channel][0].epoch, []).append(claim)
    groups = [*_cut(direct), *(group for epoch in sorted(epochs) for group in _cut(epochs[epoch]))]
    groups += [(claim,) for claim in planned if claim.alone]
    # Urgent ones before the others, as they were planned.
    groups.sort(key=lambda group: planned.index(group[0]))
    return [(_transaction(group, proofs, sender), group) for group in groups]


def make_transaction(
    claim: PlannedClaim, proofs: Mapping[ChannelId, tuple[Leaf, Proof]], sender: Address
) -> Transaction:
    """One claim by itself."""
    if claim.direct:
        return ClaimDirect(sender=sender, acknowledgement=claim.acknowledgement)
    leaf, proof = proofs[claim.acknowledgement.channel]
    return Claim(sender=sender, leaf=leaf, proof=proof, acknowledgement=claim.acknowledgement)


def _cut(claims: list[PlannedClaim]) -> list[tuple[PlannedClaim, ...]]:
    return [tuple(claims[at : at + CLAIMS_PER_BATCH_MAX]) for at in range(0, len(claims), CLAIMS_PER_BATCH_MAX)]


def _transaction(
    group: tuple[PlannedClaim, ...], proofs: Mapping[ChannelId, tuple[Leaf, Proof]], sender: Address
) -> Transaction:
    if len(group) == 1:
        return make_transaction(group[0], proofs, sender)
    acks = [claim.acknowledgement for claim in group]
    if group[0].direct:
        return ClaimDirectBatch(sender=sender, acknowledgements=tuple(acks))
    # A batch names its leaves by ascending place.
    acks.sort(key=lambda ack: proofs[ack.channel][1].index)
    kept = [proofs[ack.channel] for ack in acks]
    return ClaimBatch(
        sender=sender, epoch=kept[0][0].epoch, acknowledgements=tuple(acks), proof=combine([proof for _, proof in kept])
    )
