"""Each policy against numbers by hand, and distributions against their theory with fixed seeds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from math import exp

import pytest

from quiver.errors import UsageError
from quiver.selection.decay import DecayingMean, PeakCost
from quiver.selection.least_loaded import LeastLoaded
from quiver.selection.peak_ewma import PeakEwma
from quiver.selection.policy import RANKED_MAX, Policy, check_decision, tell, wanted_probes
from quiver.selection.power_of_two import PowerOfTwo
from quiver.selection.random_choice import RandomChoice
from quiver.selection.registry import POLICIES, named
from quiver.selection.round_robin import RoundRobin
from quiver.selection.weighted import Weighted
from quiver.values.decision import Candidate, Decision, Scored
from sim.oracle import Oracle
from tests.unit.selection.builders import candidate, outcome, peer, request

DRAWS = 4000
# Four standard deviations of a share estimated from 4000 draws, at worst 4 x sqrt(.25 / 4000) = 0.032.
SHARE_TOLERANCE = 0.032


def first(policy: Policy, candidates: Sequence[Candidate], rng: random.Random, *, now: float = 0.0) -> str:
    return policy.choose(request(), candidates, now=now, rng=rng).ranked[0].peer.decode()


def shares(policy: Policy, candidates: Sequence[Candidate], seed: int = 1) -> dict[str, float]:
    rng = random.Random(seed)
    counts = Counter(first(policy, candidates, rng) for _ in range(DRAWS))
    return {name: count / DRAWS for name, count in sorted(counts.items())}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_ranks_only_candidates_each_once_and_never_all_of_a_large_pool(name: str):
    policy, rng = POLICIES[name](), random.Random(7)
    assert policy.name == name
    for size in (0, 1, 2, 3, 9, 40):
        pool = [candidate(f"p{at:02}", in_flight=at % 3) for at in range(size)]
        decision = policy.choose(request(), pool, now=0.0, rng=rng)
        check_decision(decision, pool)
        assert len(decision.ranked) == min(size, RANKED_MAX)
        assert decision.policy == name


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_same_seed_same_decisions(name: str):
    pool = [candidate(f"p{at:02}", in_flight=at % 3) for at in range(20)]

    def run() -> list[Decision]:
        policy, rng = POLICIES[name](), random.Random(11)
        return [policy.choose(request(), pool, now=float(at), rng=rng) for at in range(20)]

    assert run() == run()


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"round-robin"}))
def test_equal_peers_share_evenly_whatever_their_place_in_the_list(name: str):
    pool = [candidate(letter) for letter in "abcd"]
    for share in shares(POLICIES[name](), pool).values():
        assert share == pytest.approx(0.25, abs=SHARE_TOLERANCE)


def test_weighted_gives_shares_in_proportion_to_capacity():
    pool = [candidate("a", slots=1), candidate("b", slots=2), candidate("c", slots=5)]  # 10, 20, 50 tokens/s
    assert shares(Weighted(), pool) == pytest.approx({"a": 1 / 8, "b": 2 / 8, "c": 5 / 8}, abs=SHARE_TOLERANCE)


def test_weighted_takes_the_median_for_an_unknown_weight_and_uniform_without_any():
    pool = [candidate(name, reported_decode_tps=tps) for name, tps in zip("abcd", (1.0, 2.0, 3.0, 0.0), strict=True)]
    # Weights 1, 2, 3 and their median 2.
    expected = {"a": 1 / 8, "b": 2 / 8, "c": 3 / 8, "d": 2 / 8}
    assert shares(Weighted(), pool) == pytest.approx(expected, abs=SHARE_TOLERANCE)
    nothing = [candidate(name, reported_decode_tps=0.0) for name in "ab"]
    assert shares(Weighted(), nothing)["a"] == pytest.approx(0.5, abs=SHARE_TOLERANCE)


def test_an_infinite_or_negative_weight_wins_nothing():
    pool = [
        candidate(name, reported_decode_tps=tps) for name, tps in zip("abc", (1.0, float("inf"), -5.0), strict=True)
    ]
    assert shares(Weighted(), pool)["b"] == pytest.approx(1 / 3, abs=SHARE_TOLERANCE)


def test_round_robin_visits_each_peer_in_turn():
    policy, rng = RoundRobin(), random.Random(3)
    pool = [candidate(letter) for letter in "abc"]
    start = first(policy, pool, rng)
    order = "abcabcabc"["abc".index(start) :][:7]
    assert [start, *(first(policy, pool, rng) for _ in range(6))] == list(order)


def test_round_robin_goes_on_after_the_last_peer_when_peers_come_and_go():
    policy, rng = RoundRobin(), random.Random(3)
    assert first(policy, [candidate("b")], rng) == "b"
    assert first(policy, [candidate(letter) for letter in "abc"], rng) == "c"
    # c leaves: a follows by wrapping round; then aa joins between a and b.
    assert first(policy, [candidate(letter) for letter in "ab"], rng) == "a"
    assert first(policy, [candidate(name) for name in ("a", "aa", "b")], rng) == "aa"


def test_round_robin_keeps_a_rotation_for_each_model():
    policy, rng = RoundRobin(), random.Random(3)
    pool = [candidate(letter) for letter in "abc"]
    for model in ("llama", "qwen"):
        seen = [policy.choose(request(model), pool, now=0.0, rng=rng).ranked[0].peer for _ in range(3)]
        assert sorted(seen) == [b"a", b"b", b"c"]


def test_round_robin_starts_at_a_random_place():
    pool = [candidate(letter) for letter in "abcd"]
    rng = random.Random(5)
    starts = Counter(first(RoundRobin(), pool, rng) for _ in range(400))
    assert len(starts) == 4


def test_least_loaded_counts_outstanding_per_slot():
    pool = [
        candidate("a", in_flight=3, slots=4),  # .75
        candidate("b", in_flight=1, slots=1),  # 1.0
        candidate("c", in_flight=4, slots=8),  # .5
    ]
    decision = LeastLoaded().choose(request(), pool, now=0.0, rng=random.Random(1))
    assert [(scored.peer, scored.score) for scored in decision.ranked] == [(b"c", 0.5), (b"a", 0.75), (b"b", 1.0)]
    assert decision.ranked[0].reason == "0.50 outstanding per slot"


def test_power_of_two_picks_a_peer_as_often_as_it_is_in_the_better_place_of_a_random_pair():
    # 4 peers with loads 0 < 1 < 2 < 3: rank r wins when the other is one of the 3 - r worse: (3 - r) / 6.
    pool = [candidate(letter, in_flight=load) for load, letter in enumerate("abcd")]
    assert shares(PowerOfTwo(), pool) == pytest.approx({"a": 3 / 6, "b": 2 / 6, "c": 1 / 6}, abs=SHARE_TOLERANCE)


def test_power_of_three_compares_triples():
    # Of the 4 triples 3 contain a; the fourth is won by b.
    pool = [candidate(letter, in_flight=load) for load, letter in enumerate("abcd")]
    assert shares(PowerOfTwo(d=3), pool) == pytest.approx({"a": 3 / 4, "b": 1 / 4}, abs=SHARE_TOLERANCE)
    with pytest.raises(UsageError, match="d >= 1"):
        PowerOfTwo(d=0)


def test_power_of_two_normalises_by_slots_and_retries_with_others():
    pool = [candidate("big", in_flight=4, slots=8), candidate("small", in_flight=1, slots=1)]
    decision = PowerOfTwo().choose(request(), pool, now=0.0, rng=random.Random(1))
    assert [scored.peer for scored in decision.ranked] == [b"big", b"small"]


def test_power_of_two_places_balls_far_more_evenly_than_random():
    # n balls into n bins, the classical result: max load ln ln n / ln 2 + O(1) against ln n / ln ln n.
    def fullest(policy: Policy) -> int:
        rng, counts = random.Random(2), Counter[int]()
        pool = [candidate(f"{at:03}") for at in range(300)]
        for _ in range(300):
            chosen = int(first(policy, pool, rng))
            counts[chosen] += 1
            pool[chosen] = candidate(f"{chosen:03}", in_flight=counts[chosen])
        return max(counts.values())

    assert fullest(PowerOfTwo()) <= 3 < fullest(RandomChoice())


def test_peak_cost_jumps_up_and_decays_as_finagle_defines():
    cost = PeakCost(2.0, tau_s=10.0, now=0.0)
    assert cost.read(now=10.0) == pytest.approx(2.0 * exp(-1))
    cost.observe(5.0, now=10.0)
    assert cost.read(now=10.0) == 5.0
    cost.observe(1.0, now=20.0)  # 1 (1 - e^-1) + 5 e^-1
    assert cost.read(now=20.0) == pytest.approx(1 + 4 * exp(-1))


def test_decaying_mean_weighs_by_age():
    mean = DecayingMean(tau_s=10.0)
    assert mean.value is None
    mean.observe(1.0, now=0.0)
    mean.observe(3.0, now=0.0)
    assert mean.value == 2.0
    mean.observe(8.0, now=10.0)  # (4 e^-1 + 8) / (2 e^-1 + 1)
    assert mean.value == pytest.approx((4 * exp(-1) + 8) / (2 * exp(-1) + 1))


def test_peak_ewma_prefers_the_cheaper_peer_counting_what_is_in_flight():
    policy, rng = PeakEwma(), random.Random(1)
    tell(policy, outcome("a", ttft_s=1.0), now=0.0)
    tell(policy, outcome("b", ttft_s=2.5), now=0.0)
    assert first(policy, [candidate("a"), candidate("b")], rng) == "a"
    # a: 1.0 x (1 + 1) = 2.0 < 2.5;  a: 1.0 x (2 + 1) = 3.0 > 2.5
    assert first(policy, [candidate("a", in_flight=1), candidate("b")], rng) == "a"
    assert first(policy, [candidate("a", in_flight=2), candidate("b")], rng) == "b"


def test_peak_ewma_forgets_an_idle_peer_within_a_few_tau():
    policy, rng = PeakEwma(tau_s=30.0), random.Random(1)
    policy.on_outcome(outcome("slow", ttft_s=10.0), now=0.0)
    policy.on_outcome(outcome("fast", ttft_s=1.0), now=60.0)
    pool = [candidate("fast"), candidate("slow")]
    assert policy.cost_s(peer("slow"), now=60.0) == pytest.approx(10 * exp(-2))  # 1.35
    assert first(policy, pool, rng, now=60.0) == "fast"
    # fast keeps its 1.0 by being used; slow decays below it after 30 ln 10 = 69 s.
    policy.on_outcome(outcome("fast", ttft_s=1.0), now=70.0)
    assert first(policy, pool, rng, now=70.0) == "slow"


def test_peak_ewma_takes_the_median_of_the_known_for_an_unknown_peer():
    policy, rng = PeakEwma(), random.Random(1)
    for name, ttft_s in (("a", 1.0), ("b", 2.0), ("c", 9.0)):
        policy.on_outcome(outcome(name, ttft_s=ttft_s), now=0.0)
    assert policy.cost_s(peer("new"), now=0.0) is None
    decision = policy.choose(request(), [candidate("c"), candidate("new")], now=0.0, rng=rng)
    assert [(scored.peer, scored.score) for scored in decision.ranked] == [(b"new", 2.0), (b"c", 9.0)]
    assert first(policy, [candidate("a"), candidate("new")], rng) == "a"


def test_a_fast_failure_or_busy_answer_does_not_look_like_a_fast_provider():
    policy = PeakEwma()
    policy.on_outcome(outcome("a", ok=False, ttft_s=0.001), now=0.0)
    policy.on_outcome(outcome("a", ok=False, busy=True), now=0.0)
    assert policy.cost_s(peer("a"), now=0.0) is None


def test_instances_of_one_factory_share_nothing():
    one, other = named("peak-ewma")(), named("peak-ewma")()
    tell(one, outcome("a", ttft_s=50.0), now=0.0)
    pool = [candidate("a"), candidate("b")]
    assert isinstance(one, PeakEwma)
    assert one.cost_s(peer("a"), now=0.0) == 50.0
    assert isinstance(other, PeakEwma)
    assert other.cost_s(peer("a"), now=0.0) is None
    turn_a, turn_b, rng = named("round-robin")(), named("round-robin")(), random.Random(9)
    alone = [first(turn_a, pool, rng) for _ in range(3)]
    fresh = first(turn_b, pool, random.Random(9))
    assert fresh == alone[0]


def test_oracle_takes_the_shortest_true_wait_and_ignores_what_is_reported():
    waits = {peer("a"): 3.0, peer("b"): 0.5, peer("c"): float("inf")}
    pool = [candidate("a"), candidate("b", in_flight=99, reported_queued=99), candidate("c")]
    decision = Oracle(waits.__getitem__).choose(request(), pool, now=0.0, rng=random.Random(1))
    assert [scored.peer for scored in decision.ranked] == [b"b", b"a", b"c"]


def test_policies_without_hooks_are_told_and_probed_without_effect():
    policy = RandomChoice()
    tell(policy, outcome("a"), now=0.0)
    assert wanted_probes(policy, now=0.0, rng=random.Random(1)) == ()


def test_named_accepts_each_way_to_write_a_name():
    assert named("power-of-two") is named("PowerOfTwo") is named("power_of_two") is PowerOfTwo
    with pytest.raises(UsageError, match="choose one of random, weighted"):
        named("best")


@pytest.mark.parametrize(
    ("peers", "message"),
    [([], "ranked none"), (["a", "a"], "twice"), (["z"], "not a candidate")],
)
def test_check_decision_names_the_mistake(peers: list[str], message: str):
    ranked = tuple(Scored(peer=peer(name), score=0.0, reason="") for name in peers)
    with pytest.raises(UsageError, match=message):
        check_decision(Decision(ranked=ranked, policy="mine"), [candidate("a")])
