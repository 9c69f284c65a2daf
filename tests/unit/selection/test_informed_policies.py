"""Policies that use prices, prompts or load reports, against numbers by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from quiver.errors import UsageError
from quiver.selection.cheapest_within_slo import CheapestWithinSlo, predict_ttft_s
from quiver.selection.policy import Policy
from quiver.selection.prefix_affinity import PrefixAffinity
from quiver.selection.prequal import Prequal, compute_reuse
from quiver.values.decision import Candidate
from tests.unit.selection.builders import candidate, request


def ranked(policy: Policy, pool: Sequence[Candidate], *, now: float = 0.0, seed: int = 1, **fields: Any) -> list[str]:
    question = msgspec.structs.replace(request(), **fields)
    decision = policy.choose(question, pool, now=now, rng=random.Random(seed))
    return [scored.peer.decode() for scored in decision.ranked]


def test_predicted_ttft_is_the_measured_one_else_round_trip_plus_prefill_times_the_crowd():
    question = msgspec.structs.replace(request(), prompt_tokens_estimate=500)
    unknown = candidate("a", rtt_s=0.1, reported_prefill_tps=1000.0, slots=2)
    assert predict_ttft_s(question, unknown) == pytest.approx(0.1 + 0.5)
    # Two of ours are running in two slots: the third waits for 3 / 2 of the time.
    crowded = candidate("a", ttft_ewma_s=2.0, in_flight=2, slots=2)
    assert predict_ttft_s(question, crowded) == 3.0


def test_cheapest_within_slo_ignores_speed_inside_and_price_outside_the_slo():
    pool = [
        candidate("cheap-late", ttft_ewma_s=9.0, completion_price=1),
        candidate("dear-fast", ttft_ewma_s=0.1, completion_price=900_000),
        candidate("fair", ttft_ewma_s=1.9, completion_price=500_000),
        candidate("late", ttft_ewma_s=5.0, completion_price=900_000),
    ]
    assert ranked(CheapestWithinSlo(ttft_slo_s=2.0), pool) == ["fair", "dear-fast", "late", "cheap-late"]
    with pytest.raises(UsageError):
        CheapestWithinSlo(ttft_slo_s=0.0)


def test_prefix_affinity_follows_the_longest_known_prefix():
    policy = PrefixAffinity()
    pool = [candidate(letter) for letter in "abcd"]
    home = ranked(policy, pool, prefix_hashes=(b"1", b"2"))[0]
    for seed in range(10):
        assert ranked(policy, pool, seed=seed, prefix_hashes=(b"1", b"2", b"3"))[0] == home


def test_prefix_affinity_needs_a_match_of_three_tenths():
    policy = PrefixAffinity()
    pool = [candidate("a"), candidate("b", in_flight=1)]
    ranked(policy, pool, prefix_hashes=(b"1",))  # a owns block 1
    tail = tuple(b"x%d" % at for at in range(9))
    busy_a = [candidate("a", in_flight=2), candidate("b")]
    assert ranked(policy, busy_a, prefix_hashes=(b"1", *tail[:2]))[0] == "a"  # 1 of 3
    ranked(policy, pool, prefix_hashes=(b"1",))
    assert ranked(policy, busy_a, prefix_hashes=(b"1", *(b"y%d" % at for at in range(9))))[0] == "b"  # 1 of 10


def test_prefix_affinity_gives_way_when_its_peer_is_hot():
    policy = PrefixAffinity()
    ranked(policy, [candidate("a"), candidate("b", in_flight=1)], prefix_hashes=(b"1",))
    # 3 - 0 is in balance; 4 - 0 > 3 and 4 > 1.5 x 0 is not. The prefix then moves with the request.
    assert ranked(policy, [candidate("a", in_flight=3), candidate("b")], prefix_hashes=(b"1",))[0] == "a"
    assert ranked(policy, [candidate("a", in_flight=4), candidate("b")], prefix_hashes=(b"1",))[0] == "b"
    assert ranked(policy, [candidate("a"), candidate("b", in_flight=2)], prefix_hashes=(b"1",))[0] == "b"


def reporting(name: str, rif: int, ttft_s: float, *, age_s: float = 0.0) -> Candidate:
    return candidate(name, reported_queued=rif, ttft_ewma_s=ttft_s, reported_age_s=age_s)


def test_prequal_takes_the_lowest_latency_among_the_cold():
    # RIFs 1, 2, 9: the 0.84 quantile by nearest rank is the third, 9, so with a strict rule nobody is hot;
    # at the quantile 0.6 it is 2, so the peer with 9 is hot however fast it is.
    pool = [reporting("a", 9, 0.1), reporting("b", 2, 0.5), reporting("c", 1, 0.9)]
    filler = [candidate(f"x{at}", reported_age_s=99.0) for at in range(6)]
    assert ranked(Prequal(), pool + filler)[0] == "a"
    assert ranked(Prequal(hot_quantile=0.6), pool + filler)[:3] == ["b", "c", "a"]


def test_prequal_counts_its_own_request_on_top_of_a_report():
    policy = Prequal(hot_quantile=0.0)  # RIF decides among the hot
    pool = [reporting("a", 1, 0.1), reporting("b", 2, 0.1), reporting("c", 2, 0.1)]
    pool += [candidate(f"x{at}", reported_age_s=99.0) for at in range(9)]
    first = ranked(policy, pool)[0]
    assert first == "a"
    # The report is spent or has grown; the same old reports are not taken in again.
    old = [msgspec.structs.replace(c, reported_age_s=c.reported_age_s + 0.5) for c in pool]
    assert ranked(policy, old, now=0.5)[0] != "a"


def test_prequal_is_random_below_two_fresh_reports():
    pool = [reporting("a", 0, 0.1), *(reporting(f"x{at}", 0, 0.1, age_s=5.0) for at in range(5))]
    assert len({ranked(Prequal(), pool, seed=seed)[0] for seed in range(40)}) > 3


def test_prequal_probes_three_of_the_last_candidates():
    policy = Prequal()
    assert policy.probes(now=0.0, rng=random.Random(1)) == []
    ranked(policy, [candidate(letter) for letter in "abcde"])
    asked = policy.probes(now=0.0, rng=random.Random(1))
    assert len(set(asked)) == 3
    assert set(asked) <= {b"a", b"b", b"c", b"d", b"e"}


def test_prequal_reuse_budget_at_the_papers_numbers():
    # m = 16, n = 100: 2 / (0.84 x 3 - 1) = 1.316; rounded at random its mean stays.
    rng = random.Random(1)
    drawn = [compute_reuse(pool=16, peers=100, rng=rng) for _ in range(4000)]
    assert sorted(set(drawn)) == [1, 2]
    assert sum(drawn) / len(drawn) == pytest.approx(2 / 1.52, abs=0.03)
    assert compute_reuse(pool=2, peers=3, rng=rng) == 16  # no bound exists
