"""Does a receipt, a run of receipts or an acknowledgement continue the history we hold? Pure, before any signature is verified.

Every refusal is a `ReceiptMismatch` whose message begins with its name: shape, wrong_chain, wrong_contract, wrong_channel,
wrong_provider_key, wrong_payer, seq_not_next, cum_does_not_add_up, wrong_amount, issued_in_future, empty_batch, batch_too_large,
ack_shape, ack_wrong_channel, ack_wrong_seq, ack_wrong_cum, ack_wrong_head.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, le

import msgspec

from quiver.errors import ReceiptMismatch
from quiver.identity.keys import SESSION_SIGNATURE_BYTES, SIGNATURE_BYTES
from quiver.identity.signing import next_head, receipt_digest
from quiver.ids import ADDRESS_BYTES, DIGEST_BYTES, REQUEST_ID_BYTES, Address, ChannelId
from quiver.units import compute_cost_credits
from quiver.values.receipt import Acknowledgement, ChannelHead, ReceiptBody, SignedReceipt

# About 520 bytes each on the wire: 4096 of them stay below the 4 MiB a frame may have.
RECEIPTS_PER_BATCH_MAX = 4096
UINT32_MAX, UINT64_MAX = (1 << 32) - 1, (1 << 64) - 1

_WIDTHS = (
    ("contract", ADDRESS_BYTES), ("channel", DIGEST_BYTES), ("request_id", REQUEST_ID_BYTES), ("provider_key", DIGEST_BYTES),
    ("payer", ADDRESS_BYTES), ("request_hash", DIGEST_BYTES), ("response_hash", DIGEST_BYTES), ("model", DIGEST_BYTES),
)  # fmt: skip
_LIMITS = (
    ("chain_id", UINT64_MAX), ("seq", UINT64_MAX), ("prompt_tokens", UINT32_MAX), ("completion_tokens", UINT32_MAX),
    ("amount", UINT64_MAX), ("cum", UINT64_MAX), ("issued_ms", UINT64_MAX),
)  # fmt: skip
# Three parties check every receipt: the usual case is decided without a loop in Python.
_fixed_of, _FIXED_WIDTHS = attrgetter(*(name for name, _ in _WIDTHS)), [width for _, width in _WIDTHS]
_numbers_of, _NUMBERS_MAX = attrgetter(*(name for name, _ in _LIMITS)), [limit for _, limit in _LIMITS]
# What is wrong with a receipt that is not the next one, in the order it is looked for.
_NEXT = (
    "wrong_chain", "wrong_contract", "wrong_channel", "wrong_provider_key", "wrong_payer", "seq_not_next",
    "cum_does_not_add_up",
)  # fmt: skip


class ChannelTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What every receipt of a channel has in common."""

    chain_id: int
    contract: Address
    channel: ChannelId
    provider_key: bytes
    "Ed25519, 32 bytes."
    payer: Address


class RequestTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sum of a request's receipts so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    amount: int = 0


def check_shape(receipt: SignedReceipt) -> None:
    """Every field has the width of its place in the signed bytes: packing would cut, pad or overflow any other."""
    body = receipt.body
    numbers = _numbers_of(body)
    if (
        [*map(len, _fixed_of(body))] == _FIXED_WIDTHS
        and min(numbers) >= 0
        and all(map(le, numbers, _NUMBERS_MAX))
        and len(receipt.signature) == SIGNATURE_BYTES
    ):
        return
    # Something is wrong: say what.
    for name, width in _WIDTHS:
        if len(getattr(body, name)) != width:
            raise ReceiptMismatch(f"shape: {name} has {len(getattr(body, name))} bytes, not {width}")
    for name, limit in _LIMITS:
        if not 0 <= getattr(body, name) <= limit:
            raise ReceiptMismatch(f"shape: {name} is {getattr(body, name)}, outside 0 to {limit}")
    if len(receipt.signature) != SIGNATURE_BYTES:
        raise ReceiptMismatch(f"shape: a signature of {len(receipt.signature)} bytes, not {SIGNATURE_BYTES}")


def check_receipt(receipt: SignedReceipt, previous: ChannelHead, terms: ChannelTerms) -> ChannelHead:
    """Where the channel stands after `receipt`; `ReceiptMismatch` unless it is the next one of this channel."""
    return check_next(receipt, previous, terms)[0]


def check_next(receipt: SignedReceipt, previous: ChannelHead, terms: ChannelTerms) -> tuple[ChannelHead, bytes]:
    """The same, and the digest that its signature is over."""
    check_shape(receipt)
    body = receipt.body
    got: tuple[int | bytes, ...] = (
        body.chain_id, body.contract, body.channel, body.provider_key, body.payer, body.seq, body.cum,
    )  # fmt: skip
    expected: tuple[int | bytes, ...] = (
        terms.chain_id, terms.contract, terms.channel, terms.provider_key, terms.payer, previous.seq + 1,
        previous.cum + body.amount,
    )  # fmt: skip
    if got != expected:
        name, is_, should = next(one for one in zip(_NEXT, got, expected, strict=True) if one[1] != one[2])
        raise ReceiptMismatch(f"{name}: receipt {body.seq} says {_show(is_)}, expected {_show(should)}")
    digest = receipt_digest(body)
    return ChannelHead(seq=body.seq, cum=body.cum, head=next_head(previous.head, digest)), digest


def check_receipts(
    receipts: Sequence[SignedReceipt], previous: ChannelHead, terms: ChannelTerms
) -> tuple[list[ChannelHead], list[bytes]]:
    """The head after each of 1 to `RECEIPTS_PER_BATCH_MAX` receipts in a row, and the digest each signature is over."""
    if not receipts:
        raise ReceiptMismatch("empty_batch: no receipt in the batch")
    if len(receipts) > RECEIPTS_PER_BATCH_MAX:
        raise ReceiptMismatch(f"batch_too_large: {len(receipts)} receipts, at most {RECEIPTS_PER_BATCH_MAX} are taken")
    check_head(previous)
    heads, digests = [], []
    for receipt in receipts:
        previous, digest = check_next(receipt, previous, terms)
        heads.append(previous)
        digests.append(digest)
    return heads, digests


def check_amount(
    body: ReceiptBody, before: RequestTotals, *, prompt_price: int, completion_price: int, minimum_credits: int
) -> RequestTotals:
    """The request's totals after this receipt; its amount must be the difference of what both totals cost at the quoted prices."""
    prompt = before.prompt_tokens + body.prompt_tokens
    completion = before.completion_tokens + body.completion_tokens
    total = compute_cost_credits(
        prompt_tokens=prompt, completion_tokens=completion, prompt_price=prompt_price,
        completion_price=completion_price, minimum_credits=minimum_credits,
    )  # fmt: skip
    if body.amount != total - before.amount:
        raise ReceiptMismatch(
            f"wrong_amount: receipt {body.seq} adds {body.amount} credits, expected {total - before.amount}"
        )
    return RequestTotals(prompt_tokens=prompt, completion_tokens=completion, amount=total)


def check_issued(body: ReceiptBody, *, now_ms: int, clock_skew_ms_max: int) -> None:
    """A receipt may be old, but not from the future."""
    if body.issued_ms > now_ms + clock_skew_ms_max:
        raise ReceiptMismatch(
            f"issued_in_future: receipt {body.seq} is {body.issued_ms - now_ms} ms ahead of our clock"
        )


def check_head(head: ChannelHead) -> None:
    """Widths of a head that came from a peer."""
    if len(head.head) != DIGEST_BYTES or not 0 <= head.seq <= UINT64_MAX or not 0 <= head.cum <= UINT64_MAX:
        raise ReceiptMismatch("shape: a channel head has 32 bytes and 8-byte unsigned seq and cum")


def check_acknowledgement_shape(ack: Acknowledgement) -> None:
    """Widths of its fields, so that its digest exists and is unique."""
    if (
        len(ack.channel) != DIGEST_BYTES
        or len(ack.head) != DIGEST_BYTES
        or len(ack.signature) != SESSION_SIGNATURE_BYTES
    ):
        raise ReceiptMismatch("ack_shape: channel and head have 32 bytes, the signature 65")
    if not 0 <= ack.seq <= UINT64_MAX or not 0 <= ack.cum <= UINT64_MAX:
        raise ReceiptMismatch("ack_shape: seq and cum are 8-byte unsigned numbers")


def check_acknowledgement(ack: Acknowledgement, at: ChannelHead, channel: ChannelId) -> None:
    """`ack` speaks about exactly the state `at` of `channel`."""
    check_acknowledgement_shape(ack)
    for name, got, expected in (
        ("ack_wrong_channel", ack.channel, channel),
        ("ack_wrong_seq", ack.seq, at.seq),
        ("ack_wrong_cum", ack.cum, at.cum),
        ("ack_wrong_head", ack.head, at.head),
    ):
        if got != expected:
            raise ReceiptMismatch(f"{name}: the acknowledgement says {_show(got)}, expected {_show(expected)}")


def _show(value: int | bytes) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
