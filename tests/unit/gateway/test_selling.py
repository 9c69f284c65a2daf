"""What a client is charged, by hand."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from quiver.errors import UsageError
from quiver.gateway.delivery import Delivery
from quiver.gateway.selling import Selling, Tariff, Usage, compute_usage
from quiver.gateway.session import Session
from quiver.ids import ModelId, PeerId, RequestId
from quiver.params import Params
from quiver.values.frames import Chunk, Quote
from quiver.values.request import Final
from tests.unit.selection.builders import request

LISTED, OTHER = ModelId(b"\x01" * 32), ModelId(b"\x02" * 32)
# 2 credits a prompt token, 5 a completion token, at least 20.
TARIFF = Tariff(prompt=2_000_000, completion=5_000_000, minimum_credits=20)
CEILING = Tariff(prompt=1_000_000, completion=10_000_000, minimum_credits=0)
SELLING = Selling(tariffs={LISTED: TARIFF}, margin_ppm=250_000, ceiling=CEILING)
REQUEST = RequestId(bytes(16))
# A provider's: 1 credit a prompt token, 3 a completion token.
QUOTE = Quote(
    request_id=REQUEST, prompt_price=1_000_000, completion_price=3_000_000, minimum_credits=1, prompt_tokens_max=100,
    completion_tokens_max=50, amount_max=250, queue_s=0.0, expires_ms=1,
)  # fmt: skip


def usage(**numbers):
    return Usage(delivered=True, **numbers)


def test_a_listed_model_goes_by_the_table_whatever_it_cost():
    used = usage(prompt_tokens=10, completion_tokens=4, answer_credits=1_000, cost_credits=1_000)
    assert SELLING.compute_charge(LISTED, used) == 10 * 2 + 4 * 5
    assert SELLING.compute_charge(LISTED, usage(prompt_tokens=1, completion_tokens=1)) == 20, "the minimum"


def test_any_other_goes_by_its_cost_and_the_margin_rounded_up_to_a_whole_credit():
    for cost, charge in ((4, 5), (5, 7), (1, 2), (0, 0), (100, 125)):
        assert SELLING.compute_charge(OTHER, usage(answer_credits=cost, cost_credits=999)) == charge
    # A millionth more than 100 %: 10^6 credits give one more, 1 gives a whole one.
    exact = Selling(margin_ppm=1, ceiling=CEILING)
    assert exact.compute_charge(OTHER, usage(answer_credits=10**6)) == 10**6 + 1
    assert exact.compute_charge(OTHER, usage(answer_credits=1)) == 2
    assert Selling(margin_ppm=0, ceiling=CEILING).compute_charge(OTHER, usage(answer_credits=7)) == 7


@pytest.mark.parametrize("model", [LISTED, OTHER])
def test_nothing_delivered_is_nothing_owed_though_somebody_who_lost_a_hedge_is_paid(model):
    assert SELLING.compute_charge(model, Usage(cost_credits=50)) == 0


def test_the_most_a_request_can_cost_is_what_a_provider_may_bill_at_the_dearest_price():
    asked = replace(request(), prompt_tokens_estimate=10, max_tokens=30)
    # Twice the estimate and 64 prompt tokens, 30 and 2 completion tokens.
    assert SELLING.compute_max(asked, LISTED, slack_tokens=2) == 84 * 2 + 32 * 5
    assert SELLING.compute_max(asked, OTHER, slack_tokens=2) == (84 + 32 * 10) * 5 // 4


def test_every_model_has_a_price_and_a_margin_its_ceiling():
    SELLING.check({"a": LISTED, "b": OTHER})
    with pytest.raises(UsageError, match="no price for 'b'"):
        Selling(tariffs={LISTED: TARIFF}).check({"a": LISTED, "b": OTHER})
    with pytest.raises(UsageError, match=r"margin needs \[selling.ceiling\]"):
        Selling(margin_ppm=0).check({"b": OTHER})


# ---- what the gateway measured


def delivery(session, *, tokens, billed=None):
    one = Delivery(QUOTE, bytes(32), Params())
    for index in range(tokens):
        one.on_chunk(Chunk(request_id=REQUEST, index=index, tokens=1, text="tok "))
    if billed is not None:
        one.billed_prompt, one.billed_completion, one.billed_credits = billed
    session.deliveries.append(one)
    return one


@pytest.fixture
def session():
    return Session(replace(request(), prompt_tokens_estimate=10), Params())


def final(**numbers):
    return Final(
        done_reason="stop", provider=PeerId(b"p"), model=OTHER, receipt=None, acknowledgement=None, queue_s=0.0, attempts=1,
        paid_credits=0, quoted_credits=0, **numbers,
    )  # fmt: skip


def test_a_whole_answer_is_what_its_receipts_say(session):
    session.on_first_token(delivery(session, tokens=4, billed=(12, 5, 27)), 1.0)
    used = compute_usage(session, final(prompt_tokens=12, completion_tokens=5))
    assert used == usage(prompt_tokens=12, completion_tokens=5, answer_credits=27, cost_credits=27)


def test_what_broke_off_is_what_came_and_its_prompt_as_estimated_until_a_receipt_says_it(session):
    one = delivery(session, tokens=4)
    session.on_first_token(one, 1.0)
    assert compute_usage(session, None) == usage(
        prompt_tokens=10, completion_tokens=4, answer_credits=10 + 4 * 3, cost_credits=22
    )
    one.billed_prompt, one.billed_completion, one.billed_credits = 12, 3, 21
    assert compute_usage(session, None).answer_credits == 12 + 4 * 3


def test_who_lost_a_hedge_is_the_gateways_cost_and_not_its_clients(session):
    delivery(session, tokens=2)
    session.on_first_token(delivery(session, tokens=4, billed=(10, 4, 22)), 1.0)
    used = compute_usage(session, final(prompt_tokens=10, completion_tokens=4))
    assert (used.answer_credits, used.cost_credits) == (22, 22 + 10 + 2 * 3)


def test_before_the_first_token_there_is_nothing_to_charge(session):
    delivery(session, tokens=0)
    assert compute_usage(session, None) == Usage()
