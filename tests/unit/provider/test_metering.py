"""What a request owes: at 1 credit a prompt token and 10 a completion token, at least 5, quoted for 20 + 8 tokens."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiver.gateway.delivery import Delivery
from quiver.ids import ModelId, RequestId
from quiver.params import Params
from quiver.provider.metering import Meter
from quiver.values.frames import Chunk, Quote
from quiver.values.receipt import ChannelHead
from tests.unit.receipts.histories import History

REQUEST, MODEL, HASH = RequestId(bytes(16)), ModelId(bytes(32)), b"\x07" * 32
QUOTE = Quote(
    request_id=REQUEST, prompt_price=1_000_000, completion_price=10_000_000, minimum_credits=5, prompt_tokens_max=20,
    completion_tokens_max=8, amount_max=100, queue_s=0.0, expires_ms=1,
)  # fmt: skip
TERMS, HEAD = History(amounts=()).terms, ChannelHead(seq=6, cum=1_000, head=b"\x01" * 32)


@pytest.fixture
def meter():
    return Meter(QUOTE, HASH, Params())


def bill(meter, head=HEAD):
    body = meter.next_receipt(TERMS, head, request_id=REQUEST, model=MODEL, issued_ms=77)
    meter.on_billed(body)
    return body


def test_before_the_first_chunk_nothing_is_owed(meter):
    meter.set_prompt(10)
    meter.set_completion(3)
    assert meter.total_credits == 0 and meter.is_settled


def test_the_first_chunk_owes_the_prompt_as_well(meter):
    meter.on_chunk(b"abc", 1, 10)
    assert (meter.total_credits, meter.unbilled_tokens, meter.is_settled) == (20, 1, False)
    body = bill(meter)
    assert (body.seq, body.amount, body.cum, body.prompt_tokens, body.completion_tokens) == (7, 20, 1_020, 10, 1)
    assert (body.request_hash, body.response_hash) == (HASH, hashlib.sha256(b"abc").digest())
    assert (body.issued_ms, body.payer, body.channel) == (77, TERMS.payer, TERMS.channel)
    assert meter.is_settled and meter.unbilled_tokens == 0


def test_the_next_receipt_has_only_what_is_new_but_the_hash_of_everything(meter):
    meter.on_chunk(b"abc", 1, 10)
    bill(meter)
    meter.on_chunk(b"def", 2, 10)
    body = bill(meter, ChannelHead(seq=7, cum=1_020, head=b"\x02" * 32))
    assert (body.seq, body.amount, body.cum, body.prompt_tokens, body.completion_tokens) == (8, 20, 1_040, 0, 2)
    assert body.response_hash == hashlib.sha256(b"abcdef").digest()


def test_the_least_a_request_costs_is_owed_once(meter):
    meter.on_chunk(b"", 0, 1)
    assert bill(meter).amount == 5
    meter.on_chunk(b"", 0, 5)
    # The minimum covers the prompt.
    assert (meter.total_credits, meter.is_settled) == (5, False)
    body = bill(meter)
    assert (body.amount, body.prompt_tokens) == (0, 4) and meter.is_settled


def test_an_engine_that_counts_its_prompt_last_is_heard_and_never_counts_down(meter):
    meter.on_chunk(b"abc", 1, 0)
    meter.set_prompt(12)
    meter.set_prompt(3)
    assert meter.prompt_tokens == 12
    meter.set_completion(2)
    meter.set_completion(1)
    assert meter.completion_tokens == 2


def test_counts_stay_inside_the_quote(meter):
    meter.on_chunk(b"x" * 100, 50, 500)
    assert (meter.prompt_tokens, meter.completion_tokens, meter.total_credits) == (20, 8, 100)
    meter.set_completion(10**9)
    meter.set_prompt(10**9)
    assert meter.total_credits == QUOTE.amount_max


def test_a_token_has_at_least_a_byte_and_two_may_never_show(meter):
    meter.on_chunk(b"ab", 7, 10)
    assert meter.completion_tokens == 4
    meter.on_chunk(b"", 7, 10)
    assert meter.completion_tokens == 4


@given(st.lists(st.tuples(st.text(max_size=6), st.integers(-5, 50), st.integers(-5, 50), st.booleans()), max_size=20))
def test_whatever_an_engine_says_its_gateway_accepts_every_receipt(pieces):
    """Both ends measure the same answer by themselves; they agree to the credit."""
    meter, delivery, head = Meter(QUOTE, HASH, Params()), Delivery(QUOTE, HASH, Params()), HEAD
    for index, (text, tokens, prompt, billed) in enumerate(pieces):
        before = meter.completion_tokens
        meter.on_chunk(text.encode(), tokens, prompt)
        # A chunk says what its provider counts, which stays inside the quote.
        counted = meter.completion_tokens - before
        delivery.on_chunk(Chunk(request_id=REQUEST, index=index, tokens=counted, text=text))
        if billed and not meter.is_settled:
            body = bill(meter, head)
            delivery.check(body)
            delivery.on_billed(body)
            head = ChannelHead(seq=body.seq, cum=body.cum, head=head.head)
    if not meter.is_settled:
        body = bill(meter, head)
        delivery.check(body)
        delivery.on_billed(body)
    assert delivery.billed_credits == meter.total_credits <= QUOTE.amount_max
    assert meter.is_settled
