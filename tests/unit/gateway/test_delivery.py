"""A receipt is held against what was received: by hand, at 1 credit a prompt token and 10 a completion token, at least 5."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from quiver.errors import ReceiptMismatch
from quiver.gateway.delivery import Delivery
from quiver.ids import RequestId
from quiver.params import Params
from quiver.values.frames import Chunk, Quote
from tests.unit.receipts.histories import History

REQUEST, HASH = RequestId(bytes(16)), b"\x07" * 32
QUOTE = Quote(
    request_id=REQUEST, prompt_price=1_000_000, completion_price=10_000_000, minimum_credits=5, prompt_tokens_max=20,
    completion_tokens_max=8, amount_max=100, queue_s=0.0, expires_ms=1,
)  # fmt: skip


def chunk(index, text="abc", tokens=1):
    return Chunk(request_id=REQUEST, index=index, tokens=tokens, text=text)


def body(text, **fields):
    """A receipt over `text` for 10 prompt tokens and 1 completion token, or as `fields` say."""
    return replace(
        History(amounts=(0,)).receipts[0].body,
        **{
            "request_hash": HASH, "response_hash": hashlib.sha256(text.encode()).digest(), "prompt_tokens": 10,
            "completion_tokens": 1, "amount": 20,
        } | fields,
    )  # fmt: skip


def delivery(*texts):
    """After one chunk for each text."""
    made = Delivery(QUOTE, HASH, Params())
    for index, text in enumerate(texts):
        made.on_chunk(chunk(index, text))
    return made


def test_chunks_are_counted_in_bytes_tokens_and_order():
    made = delivery("añb", "", "c")
    assert (made.bytes, made.tokens, made.chunks) == (5, 3, 3)


@pytest.mark.parametrize("index", [0, 2, -1, 1 << 63])
def test_a_chunk_that_is_missing_or_repeated_is_refused_and_not_counted(index):
    made = delivery("abc")
    with pytest.raises(ReceiptMismatch, match=f"chunk {index} where 1 was due"):
        made.on_chunk(chunk(index))
    assert (made.bytes, made.tokens, made.chunks) == (3, 1, 1)
    made.check(body("abc"))


def test_receipts_add_up_to_the_price_of_the_whole():
    made = delivery("abc")
    first = body("abc")
    made.check(first)
    made.on_billed(first)
    made.on_chunk(chunk(1, "def"))
    # Nothing more for the prompt, 10 for one more token.
    second = body("abcdef", prompt_tokens=0, completion_tokens=1, amount=10)
    made.check(second)
    made.on_billed(second)
    assert (made.billed_prompt, made.billed_completion, made.billed_credits) == (10, 2, 30)


def test_the_least_a_request_costs_is_billed_once():
    made = delivery("abc")
    first = body("abc", prompt_tokens=0, completion_tokens=0, amount=5)
    made.check(first)
    made.on_billed(first)
    second = body("abc", prompt_tokens=3, completion_tokens=0, amount=0)
    made.check(second)
    with pytest.raises(ReceiptMismatch, match="3 credits billed, 0 are due"):
        made.check(body("abc", prompt_tokens=3, completion_tokens=0, amount=3))


def test_before_the_first_chunk_nothing_is_owed():
    with pytest.raises(ReceiptMismatch, match="nothing is owed before the first token"):
        delivery().check(body("", prompt_tokens=0, completion_tokens=0, amount=5))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"request_hash": bytes(32)}, "another request"),
        ({"response_hash": bytes(32)}, "an answer we did not receive"),
        ({"prompt_tokens": 21, "amount": 31}, "21 prompt tokens billed, at most 20 were quoted"),
        # 3 bytes hold 3 tokens, and 2 more are never shown.
        ({"completion_tokens": 6, "amount": 70}, "6 completion tokens billed for 3 bytes"),
        ({"amount": 21}, "21 credits billed, 20 are due"),
        ({"amount": 19}, "19 credits billed, 20 are due"),
        ({"amount": 0}, "0 credits billed, 20 are due"),
    ],
)
def test_what_goes_beyond_delivery_and_quote_is_refused_and_says_how(fields, says):
    made = delivery("abc")
    with pytest.raises(ReceiptMismatch, match=says):
        made.check(body("abc", **fields))
    assert (made.billed_prompt, made.billed_completion, made.billed_credits) == (0, 0, 0)
    made.check(body("abc"))


def test_tokens_stay_within_the_quote_even_when_the_bytes_would_hold_more():
    made = delivery("x" * 100)
    made.check(body("x" * 100, completion_tokens=8, amount=90))
    with pytest.raises(ReceiptMismatch, match="9 completion tokens billed for 100 bytes"):
        made.check(body("x" * 100, completion_tokens=9, amount=100))


def test_the_band_counts_all_receipts_together():
    made = delivery("abc")
    first = body("abc", completion_tokens=5, amount=60)
    made.check(first)
    made.on_billed(first)
    with pytest.raises(ReceiptMismatch, match="6 completion tokens billed for 3 bytes"):
        made.check(body("abc", prompt_tokens=0, completion_tokens=1, amount=10))
