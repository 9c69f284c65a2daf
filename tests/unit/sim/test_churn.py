"""Churn fits against their published quantiles and against renewal theory."""

from __future__ import annotations

import math
import random
from itertools import islice

import pytest

from quiver.errors import UsageError
from sim import churn
from sim.churn import NoChurn, Weibull

HOUR = 3600.0


def test_ipfs_sessions_meet_the_two_published_quantiles():
    up = churn.ipfs().up
    assert up.quantile_s(0.5) == pytest.approx(2 * HOUR, rel=0.01)
    assert up.quantile_s(0.8) == pytest.approx(8 * HOUR, rel=0.01)
    assert churn.ipfs(0.8).availability() == pytest.approx(0.8)


def test_spot_zones_have_the_availability_of_their_fits():
    spot = churn.spot()
    # 1.75 h Gamma(1 + 1/0.595) = 2.66 h up, 1.32 h Gamma(1 + 1/0.707) = 1.66 h down.
    assert spot.up.mean_s() == pytest.approx(2.66 * HOUR, rel=0.005)
    assert spot.availability() == pytest.approx(0.617, abs=0.002)


def test_draws_follow_the_fit():
    spot, rng = churn.spot().starting_fresh(), random.Random(1)
    ups, downs = zip(*islice(spot.sessions(rng), 20_000), strict=True)
    for sample, fit in ((sorted(ups), spot.up), (sorted(downs), spot.down)):
        for q in (0.25, 0.5, 0.9):
            assert sample[int(q * len(sample))] == pytest.approx(fit.quantile_s(q), rel=0.07)


def test_a_stationary_start_is_up_with_the_availability_and_has_the_residual_mean():
    spot = churn.spot()
    first = [next(spot.sessions(random.Random(seed))) for seed in range(6000)]
    up = [up_s for up_s, _ in first if up_s > 0]
    assert len(up) / len(first) == pytest.approx(spot.availability(), abs=0.02)
    # Renewal theory: mean residual = E[X^2] / (2 E[X]), and E[X^2] = scale^2 Gamma(1 + 2/k).
    expected = spot.up.scale_s**2 * math.gamma(1 + 2 / spot.up.k) / (2 * spot.up.mean_s())
    assert sum(up) / len(up) == pytest.approx(expected, rel=0.1)


def test_memoryless_residuals_are_the_distribution_itself():
    fit, rng = Weibull(1.0, 10.0), random.Random(2)
    residuals = [fit.residual_s(rng) for _ in range(20_000)]
    assert sum(residuals) / len(residuals) == pytest.approx(10.0, rel=0.03)


def test_a_rate_per_hour_is_the_inverse_of_the_mean_session():
    assert churn.per_hour(2.0).up.mean_s() == pytest.approx(1800.0)
    assert churn.per_hour(2.0, down_s=60.0).down.mean_s() == pytest.approx(60.0)
    with pytest.raises(UsageError):
        churn.per_hour(0.0)
    with pytest.raises(UsageError):
        churn.ipfs(1.0)


def test_no_churn_never_ends_a_session_and_one_seed_repeats():
    assert next(NoChurn().sessions(random.Random(1))) == (math.inf, 0.0)
    a, b = (list(islice(churn.ipfs().sessions(random.Random(9)), 5)) for _ in range(2))
    assert a == b
