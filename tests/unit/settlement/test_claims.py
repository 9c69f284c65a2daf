"""What is worth claiming, by hand."""

from __future__ import annotations

from quiver.ids import Address, ChannelId
from quiver.settlement.claims import Claimable, plan_claims
from quiver.values.ledger import ChannelState
from quiver.values.receipt import Acknowledgement


def make(number, *, locked=1000, paid=0, cum=0, committed=None, exit_at_ms=None, closed=False):
    channel = ChannelId(bytes([number]) * 32)

    def ack(credits):
        return Acknowledgement(channel=channel, seq=1, cum=credits, head=bytes(32), signature=bytes(65))

    account = Address(bytes(20))
    state = ChannelState(
        channel=channel, payer=account, provider=account, session=account, locked=locked, paid=paid,
        exit_at_ms=exit_at_ms, closed=closed,
    )  # fmt: skip
    return Claimable(state=state, acknowledgement=ack(cum), committed=None if committed is None else ack(committed))


def planned(*candidates, **options):
    return [(claim.acknowledgement.channel[0], claim.due, claim.direct) for claim in plan_claims(candidates, **options)]


def test_a_claim_must_bring_ten_times_its_cost():
    assert planned(make(1, cum=99, committed=99), make(2, cum=100, committed=100), cost_credits=10) == [(2, 100, False)]


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
