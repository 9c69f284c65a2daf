"""A channel that holds too little is looked up on the ledger before a request is refused, and not more than once a second."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from quiver.errors import Unavailable
from quiver.params import Params
from quiver.provider.channel import ProviderChannel
from quiver.provider.payers import LOOK_AGAIN_S, Payers
from quiver.receipts.log import ProviderLog
from quiver.values.ledger import ChannelState
from tests.unit.receipts.histories import History

PARAMS = Params(first_credit=10_000, unproven_credit_max=10_000)


class Desk:
    """A provider with one channel of 500 credits. `state` is what the ledger shows, None that it is away."""

    def __init__(self):
        history = History(amounts=())
        self.state = ChannelState(
            channel=history.terms.channel, payer=history.payer.account, provider=history.provider.account,
            session=history.payer.session_address, locked=500, paid=0,
        )  # fmt: skip
        self.now_s, self.reads = 100.0, 0
        self.payers = Payers(
            SimpleNamespace(clock=SimpleNamespace(now=lambda: self.now_s), ledger=self, params=PARAMS),
        )
        self.own = ProviderChannel(self.state, ProviderLog(history.terms), PARAMS)
        self.payers.channels[self.state.channel] = self.own

    def channel(self, channel_id):
        assert channel_id == self.own.state.channel
        self.reads += 1
        if self.state is None:
            raise Unavailable("the ledger is away")
        return self.state

    def change(self, **changed):
        self.state = msgspec.structs.replace(self.state, **changed)

    def can_carry(self, amount):
        return self.payers.can_carry(self.own, amount)


def test_a_top_up_counts_at_the_first_request_that_needs_it():
    desk = Desk()
    desk.change(locked=900)
    assert desk.can_carry(500) and desk.reads == 0, "what fits asks nobody"
    assert desk.can_carry(501) and desk.reads == 1 and desk.own.state.locked == 900


def test_a_channel_without_a_top_up_is_looked_up_once_a_second():
    desk = Desk()
    assert [desk.can_carry(501) for _ in range(50)] == [False] * 50 and desk.reads == 1
    desk.change(locked=900)
    desk.now_s += LOOK_AGAIN_S - 0.01
    assert not desk.can_carry(501) and desk.reads == 1
    desk.now_s += 0.01
    assert desk.can_carry(501) and desk.reads == 2


def test_an_exit_that_is_seen_on_the_way_stops_the_channel():
    desk = Desk()
    desk.change(locked=900, exit_at_ms=5)
    assert not desk.can_carry(501) and not desk.can_carry(1)


def test_a_ledger_that_is_away_refuses_and_breaks_nothing():
    desk = Desk()
    desk.state = None
    assert not desk.can_carry(501) and desk.can_carry(500)
