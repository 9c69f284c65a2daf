"""Both ends of one channel through any story: they agree, hold nothing negative, and a refused input changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quiver.errors import ReceiptMismatch
from quiver.gateway.payer import PayerChannel
from quiver.ids import RequestId
from quiver.params import Params
from quiver.provider.channel import ProviderChannel
from quiver.receipts.log import PayerLog, ProviderLog
from quiver.values.ledger import ChannelState
from tests.examples import examples
from tests.unit.receipts.histories import History

REQUEST = RequestId(bytes(16))


class Channel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.history = history = History(amounts=())
        state = ChannelState(
            channel=history.terms.channel, payer=history.payer.account, provider=history.provider.account,
            session=history.payer.session_address, locked=500, paid=0,
        )  # fmt: skip
        self.provider = ProviderChannel(state, ProviderLog(history.terms), Params(first_credit=100))
        self.payer = PayerChannel(state, PayerLog(history.terms))

    @rule(quoted=st.integers(1, 80), share=st.integers(0, 100))
    def request(self, quoted, share):
        if self.provider.refusal(quoted) is not None:
            return
        self.provider.reserve(REQUEST, quoted)
        assert self.payer.reserve(REQUEST, quoted)
        signed = self.history.add(quoted * share // 100)
        self.provider.on_issued(signed)
        self.payer.on_receipt(signed)
        self.provider.release(REQUEST)
        self.payer.release(REQUEST)

    @rule()
    def acknowledge(self):
        if self.payer.unsigned:
            signed = self.history.acknowledge()
            self.payer.log.on_signed(signed)
            self.provider.on_acknowledged(signed)
            assert self.provider.exposure == 0

    @rule()
    def refuse(self):
        before = self.payer.log.head, self.payer.available
        if self.history.receipts:
            with pytest.raises(ReceiptMismatch):
                self.payer.on_receipt(self.history.receipts[-1])
        assert (self.payer.log.head, self.payer.available) == before

    @invariant()
    def agree(self):
        assert self.provider.log.head == self.payer.log.head
        self.provider.validate()
        self.payer.validate()
        assert self.payer.available >= 0


TestChannel = Channel.TestCase
TestChannel.settings = settings(max_examples=examples(30), stateful_step_count=20, deadline=None)
