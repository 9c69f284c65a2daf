"""What is worth claiming, and in what transactions, by hand."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import SettlementError
from quiver.identity.signing import ack_digest, ack_domain
from quiver.ids import Address, ChannelId
from quiver.params import Params
from quiver.settlement.channels import leaf_of
from quiver.settlement.claims import (
    GAS_PER_CLAIM,
    ROTATION_MARGIN_MS,
    Claimable,
    ClaimPolicy,
    make_transactions,
    plan_claims,
)
from quiver.settlement.contract import Contract
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.values.ledger import (
    ChannelState,
    Claim,
    ClaimBatch,
    ClaimDirect,
    ClaimDirectBatch,
    Commitment,
    Deposit,
    OpenChannel,
    RotateSession,
    SubmitEpoch,
)
from quiver.values.receipt import Acknowledgement
from sim.signer import compute_tag, model_verify_session

replace = msgspec.structs.replace
OLD, NEW = Address(b"\x01" * 20), Address(b"\x02" * 20)
NOW_MS = 1_000_000_000


def make(
    number, *, locked=1000, paid=0, cum=0, committed=None, since_ms=None, signed_by=None, committed_by=None, **state
):
    channel = ChannelId(bytes([number]) * 32)

    def ack(credits):
        return Acknowledgement(channel=channel, seq=1, cum=credits, head=bytes(32), signature=bytes(65))

    account = Address(bytes(20))
    state = ChannelState(
        channel=channel, payer=account, provider=account, session=OLD, locked=locked, paid=paid, **state
    )  # fmt: skip
    return Claimable(
        state=state, acknowledgement=ack(cum), committed=None if committed is None else ack(committed),
        since_ms=since_ms, signed_by=signed_by, committed_by=committed_by,
    )  # fmt: skip


def planned(*candidates, now_ms=NOW_MS, gas_price_wei=0, claims_max=64, **policy):
    claims = plan_claims(
        candidates, policy=ClaimPolicy(**policy), now_ms=now_ms, gas_price_wei=gas_price_wei, claims_max=claims_max
    )
    return [(claim.acknowledgement.channel[0], claim.due, claim.direct) for claim in claims]


def test_a_claim_must_bring_ten_times_its_cost():
    assert planned(make(1, cum=99, committed=99), make(2, cum=100, committed=100), cost_credits=10) == [(2, 100, False)]


def test_less_than_the_operators_amount_is_left_to_grow():
    assert planned(make(1, cum=499, committed=499), make(2, cum=500, committed=500), amount_min=500) == [
        (2, 500, False)
    ]


def test_only_what_is_committed_and_locked_counts():
    assert planned(make(1, cum=500), make(2, cum=5000, committed=4000, paid=100), cost_credits=10) == [(2, 900, False)]


def test_a_leaving_payer_is_claimed_first_directly_and_down_to_the_cost():
    candidates = make(1, cum=900, committed=900), make(2, cum=11, exit_at_ms=5), make(3, cum=10, exit_at_ms=5)
    assert planned(*candidates, cost_credits=10) == [(2, 11, True), (1, 900, False)]


def test_free_claims_still_need_something_due_and_closed_channels_nothing():
    candidates = make(1, cum=0, committed=0), make(2, cum=5, committed=5), make(3, cum=9, committed=9, closed=True)
    assert planned(*candidates, cost_credits=0) == [(2, 5, False)]


def test_the_largest_come_first_and_ties_by_channel():
    candidates = [make(n, cum=due, committed=due) for n, due in ((3, 200), (1, 200), (2, 300))]
    assert planned(*candidates, cost_credits=1, claims_max=2) == [(2, 300, False), (1, 200, False)]


def test_what_waited_too_long_is_claimed_though_little_and_without_a_proof_if_none_came():
    since_ms = NOW_MS - 60_000
    old = make(1, cum=30, committed=30, since_ms=since_ms), make(2, cum=40, committed=30, since_ms=since_ms)
    young = make(3, cum=30, committed=30, since_ms=since_ms + 1)
    assert planned(*old, young, amount_min=500, age_s_max=60.0, cost_credits=5) == [(2, 40, True), (1, 30, False)]
    assert planned(*old, amount_min=500, age_s_max=60.0, cost_credits=40) == []


def test_gas_becomes_credits_and_dear_gas_waits_but_not_for_ever():
    # 1,000 wei a credit at 2 wei a gas: 142.36 credits a claim, so 143, and ten times that is asked for.
    assert ClaimPolicy(wei_per_credit=1000).cost(2) == 143 and GAS_PER_CLAIM == 71_180
    many = {"locked": 10_000}
    assert planned(make(1, cum=1429, committed=1429, **many), wei_per_credit=1000, gas_price_wei=2) == []
    assert planned(make(1, cum=1430, committed=1430, **many), wei_per_credit=1000, gas_price_wei=2) == [
        (1, 1430, False)
    ]
    dear = {"gas_price_wei": 3, "gas_price_wei_max": 2, "age_s_max": 60.0}
    waits, aged = make(1, cum=900, committed=900), make(2, cum=900, committed=900, since_ms=NOW_MS - 60_000)
    leaves = make(3, cum=900, exit_at_ms=NOW_MS + 1)
    assert planned(waits, aged, leaves, **dear) == [(3, 900, True), (2, 900, False)]


def test_what_an_old_key_signed_is_urgent_until_the_key_goes_and_left_out_afterwards():
    rotating = {"next_session": NEW, "rotates_at_ms": NOW_MS + 2 * ROTATION_MARGIN_MS}
    candidate = make(1, cum=50, signed_by=OLD, **rotating)
    assert planned(candidate) == [(1, 50, True)]
    assert planned(candidate, now_ms=rotating["rotates_at_ms"]) == []
    # The new key's counts from then on, and not before.
    renewed = make(1, cum=50, committed=50, signed_by=NEW, committed_by=NEW, **rotating)
    assert planned(renewed) == []
    assert planned(renewed, now_ms=rotating["rotates_at_ms"]) == [(1, 50, False)]


def test_near_the_change_of_a_key_a_channel_is_claimed_by_itself():
    for offset, alone in ((ROTATION_MARGIN_MS, True), (ROTATION_MARGIN_MS + 1, False)):
        candidate = make(1, cum=50, signed_by=OLD, next_session=NEW, rotates_at_ms=NOW_MS + offset)
        (claim,) = plan_claims([candidate], policy=ClaimPolicy(), now_ms=NOW_MS)
        assert claim.alone is alone


# ---- against the contract

PAYER, PROVIDER, HUB = Address(b"\x0a" * 20), Address(b"\x0b" * 20), Address(b"\x0c" * 20)
PARAMS = Params.minimal()
DOMAIN = ack_domain(9, HUB)


class Ledger:
    """`count` channels of 100 credits; `acks[n]` is signed by OLD."""

    def __init__(self, count):
        self.contract = Contract(
            chain_id=9, contract=HUB, aggregator=PROVIDER, params=PARAMS, verify_session=model_verify_session
        )
        self.send(Deposit(sender=PAYER, amount=100 * count))
        self.channels = [
            self.send(OpenChannel(sender=PAYER, provider=PROVIDER, session=OLD, amount=100, nonce=n)).channel
            for n in range(count)
        ]
        self.acks = [self.acknowledge(OLD, channel, 10 + n) for n, channel in enumerate(self.channels)]

    def send(self, transaction, now_ms=0):
        return self.contract.apply(transaction, now_ms)

    def acknowledge(self, session, channel, cum):
        signature = compute_tag(session, ack_digest(DOMAIN, channel, cum, 1, bytes(32)), b"secp256k1") + b"\0"
        return Acknowledgement(channel=channel, seq=1, cum=cum, head=bytes(32), signature=signature)

    def commit(self, acks, epoch=0):
        """Post a root over `acks`; the proofs by channel."""
        leaves = [leaf_of(ack, epoch) for ack in acks]
        tree = MerkleTree([hash_leaf(leaf) for leaf in leaves])
        commitment = Commitment(epoch=epoch, root=tree.root, count=len(leaves))
        self.send(SubmitEpoch(sender=PROVIDER, commitment=commitment), (epoch + 1) * PARAMS.epoch_ms)
        return {leaf.channel: (leaf, tree.proof(at)) for at, leaf in enumerate(leaves)}

    def claimables(self, **signed_by):
        return [
            Claimable(state=self.contract.channel(ack.channel), acknowledgement=ack, committed=ack, **signed_by)
            for ack in self.acks
        ]


def test_claims_of_an_epoch_go_under_one_proof_made_of_single_ones():
    ledger = Ledger(5)
    proofs = ledger.commit(ledger.acks[::-1])
    claims = plan_claims(ledger.claimables()[:4], policy=ClaimPolicy(), now_ms=0)
    ((batch, claimed),) = make_transactions(claims, proofs, PROVIDER)
    assert isinstance(batch, ClaimBatch) and claimed == claims
    assert ledger.send(batch).paid == 10 + 11 + 12 + 13 == sum(claim.due for claim in claims)


def test_batches_by_epoch_direct_ones_together_and_one_by_itself_in_no_batch():
    ledger = Ledger(7)
    proofs = ledger.commit(ledger.acks[:2], epoch=0) | ledger.commit(ledger.acks[2:3], epoch=1)
    at_ms = ROTATION_MARGIN_MS
    candidates = ledger.claimables()[:3] + [
        replace(one, committed=None, state=replace(one.state, exit_at_ms=at_ms)) for one in ledger.claimables()[3:6]
    ]
    candidates.append(
        replace(ledger.claimables()[6], committed=None, signed_by=OLD,
                state=replace(ledger.claimables()[6].state, next_session=NEW, rotates_at_ms=at_ms))
    )  # fmt: skip
    claims = plan_claims(candidates, policy=ClaimPolicy(), now_ms=1)
    made = make_transactions(claims, proofs, PROVIDER)
    kinds = [(type(transaction), len(group)) for transaction, group in made]
    assert kinds == [(ClaimDirect, 1), (ClaimDirectBatch, 3), (Claim, 1), (ClaimBatch, 2)]
    assert [ledger.send(transaction, 1).paid for transaction, _ in made] == [16, 13 + 14 + 15, 12, 10 + 11]


def test_an_old_keys_acknowledgement_would_spoil_a_batch_and_is_left_out_of_it():
    ledger = Ledger(3)
    ledger.send(RotateSession(sender=PAYER, channel=ledger.channels[1], session=NEW))
    over_ms = round(PARAMS.exit_delay_s * 1000)
    with pytest.raises(SettlementError, match="not signed by the channel's session key"):
        ledger.send(ClaimDirectBatch(sender=PROVIDER, acknowledgements=tuple(ledger.acks)), over_ms)
    proofs = ledger.commit(ledger.acks)
    candidates = [
        replace(one, signed_by=OLD, committed_by=OLD) if one.state.next_session is not None else one
        for one in ledger.claimables()
    ]
    claims = plan_claims(candidates, policy=ClaimPolicy(), now_ms=over_ms + ROTATION_MARGIN_MS + 1)
    ((batch, _),) = make_transactions(claims, proofs, PROVIDER)
    assert ledger.send(batch, over_ms).paid == 10 + 12
