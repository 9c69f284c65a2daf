"""Every way a receipt or an acknowledgement can contradict the channel has a name; one changed bit is always found."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import BadSignature, PeerError, ReceiptMismatch
from quiver.identity.signing import receipt_digest
from quiver.receipts.checks import (
    RequestTotals,
    check_acknowledgement,
    check_amount,
    check_issued,
    check_receipt,
    check_receipts,
)
from quiver.receipts.signatures import verify_acknowledgement, verify_receipt
from quiver.values.receipt import ChannelHead
from sim.signer import SimVerifier
from tests.unit.receipts.histories import CHAIN_ID, HUB, History, drive

replace = msgspec.structs.replace


def change(receipt, **fields):
    return replace(receipt, body=replace(receipt.body, **fields))


def test_a_run_of_receipts_ends_where_the_provider_says():
    history = History(amounts=(10, 0, 25))
    heads, digests = check_receipts(history.receipts, ChannelHead(), history.terms)
    assert digests == [receipt_digest(one.body) for one in history.receipts]
    assert heads == history.heads[1:]
    assert (heads[-1].seq, heads[-1].cum) == (3, 35)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("wrong_chain", {"chain_id": 1}),
        ("wrong_contract", {"contract": bytes(20)}),
        ("wrong_channel", {"channel": bytes(32)}),
        ("wrong_provider_key", {"provider_key": bytes(32)}),
        ("wrong_payer", {"payer": bytes(20)}),
        ("seq_not_next", {"seq": 3}),
        ("cum_does_not_add_up", {"cum": 11}),
        ("cum_does_not_add_up", {"amount": 1}),
        ("shape", {"channel": b"\xcc" * 33}),
        ("shape", {"amount": -1}),
        ("shape", {"cum": 1 << 64}),
        ("shape", {"prompt_tokens": 1 << 32}),
    ],
)
def test_a_receipt_that_does_not_continue_the_channel_is_refused_by_name(name, fields):
    history = History(amounts=(10, 0))
    with pytest.raises(ReceiptMismatch, match=f"^{name}:"):
        check_receipt(change(history.receipts[1], **fields), history.heads[1], history.terms)


def test_empty_and_oversized_batches_are_refused():
    history = History(amounts=(1,))
    with pytest.raises(ReceiptMismatch, match="^empty_batch"):
        check_receipts([], ChannelHead(), history.terms)
    with pytest.raises(ReceiptMismatch, match="^batch_too_large"):
        check_receipts(history.receipts * 4097, ChannelHead(), history.terms)


def test_amounts_are_differences_of_totals_rounded_up_once():
    # 3 prompt tokens at 300,000 and 4 completion tokens at 500,000 a million: 0.9 + 2 = 2.9, so 3 credits.
    prices = {"prompt_price": 300_000, "completion_price": 500_000, "minimum_credits": 2}
    body = History(amounts=(3,)).receipts[0].body
    first = check_amount(body, RequestTotals(), **prices)
    assert first == RequestTotals(prompt_tokens=3, completion_tokens=4, amount=3)
    # the same again: 5.8, so 6 in all and 3 more
    assert check_amount(body, first, **prices).amount == 6
    with pytest.raises(ReceiptMismatch, match="^wrong_amount"):
        check_amount(replace(body, amount=4), first, **prices)


def test_a_receipt_from_the_future_is_refused_beyond_the_skew():
    body = History(amounts=(1,)).receipts[0].body
    check_issued(body, now_ms=body.issued_ms - 1000, clock_skew_ms_max=1000)
    with pytest.raises(ReceiptMismatch, match="^issued_in_future"):
        check_issued(body, now_ms=body.issued_ms - 1001, clock_skew_ms_max=1000)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ack_wrong_channel", {"channel": bytes(32)}),
        ("ack_wrong_seq", {"seq": 2}),
        ("ack_wrong_cum", {"cum": 36}),
        ("ack_wrong_head", {"head": bytes(32)}),
        ("ack_shape", {"head": bytes(31)}),
        ("ack_shape", {"signature": bytes(64)}),
        ("ack_shape", {"seq": -1}),
    ],
)
def test_an_acknowledgement_of_another_state_is_refused_by_name(name, fields):
    history = History()
    check_acknowledgement(history.acknowledge(), history.heads[-1], history.terms.channel)
    with pytest.raises(ReceiptMismatch, match=f"^{name}:"):
        check_acknowledgement(replace(history.acknowledge(), **fields), history.heads[-1], history.terms.channel)


def flips(value):
    """Every value that differs in one bit."""
    if isinstance(value, int):
        return [value ^ 1 << bit for bit in range(64)]
    size = len(value)
    number = int.from_bytes(value, "big")
    return [(number ^ 1 << bit).to_bytes(size, "big") for bit in range(8 * size)]


@pytest.mark.parametrize("mode", ["real", "modelled"])
def test_any_flipped_bit_of_a_receipt_or_its_signature_is_refused(mode):
    history = History(amounts=(10, 7), mode=mode)
    verifier, good = SimVerifier(mode=mode), history.receipts[1]
    drive(verify_receipt(verifier, good))
    altered = [
        change(good, **{field: value})
        for field in good.body.__struct_fields__
        for value in flips(getattr(good.body, field))
    ]
    altered += [replace(good, signature=signature) for signature in flips(good.signature)]
    for receipt in altered:
        with pytest.raises(PeerError) as caught:
            check_receipt(receipt, history.heads[1], history.terms)
            drive(verify_receipt(verifier, receipt))
        assert str(caught.value).partition(":")[0] in {
            "shape", "wrong_chain", "wrong_contract", "wrong_channel", "wrong_provider_key", "wrong_payer", "seq_not_next",
            "cum_does_not_add_up", "receipt_signature",
        }  # fmt: skip


@pytest.mark.parametrize("mode", ["real", "modelled"])
def test_any_flipped_bit_of_an_acknowledgement_fails_its_signature(mode):
    history = History(amounts=(10, 7), mode=mode)
    verifier, good = SimVerifier(mode=mode), history.acknowledge()

    def verify(ack, session=history.payer.session_address, chain_id=CHAIN_ID):
        drive(verify_acknowledgement(verifier, ack, chain_id=chain_id, contract=HUB, session=session))

    verify(good)
    for field in good.__struct_fields__:
        for value in flips(getattr(good, field)):
            with pytest.raises(BadSignature, match="^acknowledgement_signature"):
                verify(replace(good, **{field: value}))
    with pytest.raises(BadSignature):
        verify(good, chain_id=1)
    with pytest.raises(BadSignature):
        verify(good, session=history.provider.session_address)
