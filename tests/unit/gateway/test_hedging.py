"""When a second provider is asked, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from quiver.errors import UsageError
from quiver.gateway.hedging import SAMPLES_MAX, SAMPLES_MIN, SAVED_MAX, HedgeTerms, Hedging
from quiver.ids import ModelId
from tests.unit.selection.builders import request

MODEL, OTHER = ModelId(b"m" * 32), ModelId(b"o" * 32)
ASKED = replace(request(), prompt_tokens_estimate=100)


def seen(hedging, *samples, asked=ASKED):
    for sample in samples:
        hedging.on_first_token(asked, MODEL, sample)


def test_the_95th_percentile_of_what_was_seen_is_the_delay():
    hedging = Hedging(HedgeTerms())
    seen(hedging, *range(100, 0, -1))
    # 95 of 100 took 95 s or less.
    assert hedging.delay_s(ASKED, MODEL) == 95


def test_too_few_samples_say_nothing():
    hedging = Hedging(HedgeTerms())
    seen(hedging, *[1.0] * (SAMPLES_MIN - 1))
    assert hedging.delay_s(ASKED, MODEL) is None
    seen(hedging, 1.0)
    assert hedging.delay_s(ASKED, MODEL) == 1.0


def test_another_model_and_a_much_longer_prompt_are_of_another_kind():
    hedging = Hedging(HedgeTerms())
    seen(hedging, *[1.0] * SAMPLES_MIN)
    assert hedging.delay_s(ASKED, OTHER) is None
    assert hedging.delay_s(replace(ASKED, prompt_tokens_estimate=127), MODEL) == 1.0
    assert hedging.delay_s(replace(ASKED, prompt_tokens_estimate=1_000), MODEL) is None


@given(st.lists(st.floats(0.001, 100.0), min_size=SAMPLES_MIN, max_size=2 * SAMPLES_MAX), st.floats(0.01, 0.99))
def test_only_the_newest_count(samples, quantile):
    hedging = Hedging(HedgeTerms(quantile=quantile))
    seen(hedging, *samples)
    newest = sorted(samples[-SAMPLES_MAX:])
    delay_s = hedging.delay_s(ASKED, MODEL)
    assert delay_s in newest
    assert sum(sample <= delay_s for sample in newest) >= quantile * len(newest)
    assert sum(sample < delay_s for sample in newest) < quantile * len(newest)


@pytest.mark.parametrize("forbidden", ["sealed", "once"])
def test_what_only_one_may_see_is_never_hedged(forbidden):
    hedging = Hedging(HedgeTerms(after_s=0.5))
    assert hedging.delay_s(ASKED, MODEL) == 0.5
    assert hedging.delay_s(replace(ASKED, **{forbidden: True}), MODEL) is None


def test_one_hedge_in_twenty_requests_and_not_one_before():
    hedging = Hedging(HedgeTerms(after_s=0.5))
    for _ in range(3):
        for _ in range(20):
            assert not hedging.take()
            hedging.on_request()
        assert hedging.take()


def test_a_quiet_day_saves_no_more_than_a_few():
    hedging = Hedging(HedgeTerms(after_s=0.5, share=1.0))
    for _ in range(1_000):
        hedging.on_request()
    assert sum(hedging.take() for _ in range(1_000)) == SAVED_MAX


@given(st.lists(st.booleans()), st.floats(0.001, 1.0))
def test_hedges_never_exceed_their_share(steps, share):
    hedging = Hedging(HedgeTerms(after_s=0.5, share=share))
    requests = hedges = 0
    for is_request in steps:
        if is_request:
            hedging.on_request()
            requests += 1
        else:
            hedges += hedging.take()
        # The share is kept in millionths.
        assert hedges <= requests * (share + 1e-6)


@pytest.mark.parametrize(
    "terms", [{"after_s": 0.0}, {"after_s": float("inf")}, {"quantile": 1.0}, {"quantile": 0.0}, {"share": 0.0},
              {"share": 1.5}, {"share": float("nan")}], ids=str,
)  # fmt: skip
def test_terms_that_make_no_sense_are_named(terms):
    with pytest.raises(UsageError, match=next(iter(terms))):
        HedgeTerms(**terms)
