"""What a gateway may still promise on a channel of 500 credits."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from quiver.errors import ReceiptMismatch
from quiver.gateway.payer import PayerChannel
from quiver.ids import RequestId
from quiver.receipts.log import PayerLog
from quiver.values.ledger import ChannelState
from quiver.values.receipt import ChannelHead
from tests.unit.receipts.histories import History

REQUEST, OTHER = RequestId(bytes(16)), RequestId(b"\x01" * 16)


@pytest.fixture
def history():
    return History(amounts=())


@pytest.fixture
def channel(history):
    state = ChannelState(
        channel=history.terms.channel, payer=history.payer.account, provider=history.provider.account,
        session=history.payer.session_address, locked=500, paid=0,
    )  # fmt: skip
    return PayerChannel(state, PayerLog(history.terms))


def test_quoted_maxima_are_held_until_their_request_is_over(channel):
    assert channel.reserve(REQUEST, 300) and channel.available == 200
    assert not channel.reserve(OTHER, 201), "promised already"
    assert channel.reserve(OTHER, 200) and channel.available == 0
    channel.release(REQUEST)
    assert channel.available == 300
    channel.release(REQUEST)
    assert channel.available == 300, "released once only"
    channel.validate()


def test_a_receipt_turns_a_part_of_what_is_held_into_a_debt(channel, history):
    channel.reserve(REQUEST, 300)
    channel.on_receipt(history.add(120))
    # 120 owed, 180 still held: not 120 + 300.
    assert (channel.log.head.cum, channel.available) == (120, 200)
    channel.release(REQUEST)
    assert channel.available == 380
    channel.validate()


def test_a_receipt_of_a_request_that_is_over_is_owed_all_the_same(channel, history):
    channel.on_receipt(history.add(120))
    assert channel.available == 380
    channel.validate()


def test_a_receipt_beyond_the_deposit_is_refused_before_its_signature_is_looked_at(channel, history):
    channel.on_receipt(history.add(400))
    with pytest.raises(ReceiptMismatch, match="^cum_beyond_deposit: 501 credits, 500 are locked"):
        channel.check_receipt(history.add(101))
    assert channel.log.head.cum == 400


def test_a_receipt_that_does_not_follow_leaves_everything_as_it_was(channel, history):
    channel.reserve(REQUEST, 300)
    history.add(10)
    with pytest.raises(ReceiptMismatch, match="^seq_not_next"):
        channel.on_receipt(history.add(20))
    assert channel.log.head == ChannelHead() and channel.available == 200
    channel.on_receipt(history.receipts[0])


@pytest.mark.parametrize("change", [{"exit_at_ms": 1}, {"closed": True}], ids=["exiting", "closed"])
def test_nothing_more_is_promised_on_a_channel_that_ends(channel, change):
    channel.state = replace(channel.state, **change)
    assert not channel.reserve(REQUEST, 1) and channel.available == 500


def test_receipts_wait_for_one_signature(channel, history):
    assert not channel.unsigned
    channel.on_receipt(history.add(10))
    channel.on_receipt(history.add(20))
    assert channel.unsigned
    assert channel.log.on_signed(history.acknowledge())
    assert not channel.unsigned and channel.log.last.cum == 30
    assert channel.log.on_signed(history.acknowledge(1)) == [], "an older one changes nothing"
