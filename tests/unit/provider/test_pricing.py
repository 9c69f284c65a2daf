"""The most a request can cost, by hand: 2 x estimate + 64 prompt tokens, and the tokens it asked for plus the slack."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiver.ids import ChannelId, ModelId, RequestId
from quiver.params import Params
from quiver.provider.metering import Meter
from quiver.provider.pricing import Price, compute_quote
from quiver.values.frames import Open
from quiver.values.request import Dialect, Qos


def opened(*, max_tokens=100, prompt_tokens_estimate=10):
    return Open(
        request_id=RequestId(b"\x05" * 16), channel=ChannelId(bytes(32)), model=ModelId(bytes(32)),
        dialect=Dialect.NATIVE, max_tokens=max_tokens, prompt_tokens_estimate=prompt_tokens_estimate, deadline_ms=1,
        qos=Qos.STANDARD, seed=None, sealed=False, prefix_hashes=(), body=b"",
    )  # fmt: skip


def quote(request, price, *, slack_tokens=2):
    return compute_quote(request, price, slack_tokens=slack_tokens, queue_s=1.5, expires_ms=77)


def test_the_most_is_the_price_of_the_most_tokens():
    made = quote(opened(), Price(prompt=1_000_000, completion=10_000_000, minimum_credits=3))
    assert (made.prompt_tokens_max, made.completion_tokens_max) == (84, 102)
    assert made.amount_max == 84 + 1_020
    assert (made.prompt_price, made.completion_price, made.minimum_credits) == (1_000_000, 10_000_000, 3)
    assert (made.request_id, made.queue_s, made.expires_ms) == (b"\x05" * 16, 1.5, 77)


def test_a_part_of_a_credit_is_a_credit():
    # 84 x 50,000 + 102 x 150,000 = 19,500,000 millionths.
    assert quote(opened(), Price()).amount_max == 20


@pytest.mark.parametrize(("minimum", "amount"), [(0, 0), (1, 1), (1_000, 1_000)])
def test_a_free_model_costs_its_minimum(minimum, amount):
    assert quote(opened(), Price(prompt=0, completion=0, minimum_credits=minimum)).amount_max == amount


@given(
    st.integers(1, 131_072), st.integers(0, 1 << 20), st.integers(0, 10**9), st.integers(0, 10**9),
    st.integers(0, 10**6), st.lists(st.tuples(st.binary(max_size=50), st.integers(0, 10**6)), max_size=5),
)  # fmt: skip
def test_no_answer_costs_more_than_its_quote(max_tokens, estimate, prompt, completion, minimum, pieces):
    made = quote(
        opened(max_tokens=max_tokens, prompt_tokens_estimate=estimate),
        Price(prompt=prompt, completion=completion, minimum_credits=minimum),
    )
    meter = Meter(made, bytes(32), Params())
    for data, tokens in pieces:
        meter.on_chunk(data, tokens, tokens)
    assert meter.total_credits <= made.amount_max
