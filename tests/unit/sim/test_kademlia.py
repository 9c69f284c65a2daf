"""The scenario of many DHT nodes, at a small size."""

import math

import pytest

from quiver.errors import UsageError
from sim.kademlia import compute_quantile, run_kademlia
from sim.kademlia_run import run_kademlia_scenario
from sim.scenario import Scenario


def test_every_lookup_of_an_existing_node_finds_it():
    ticks = iter([1.0, 5.0])
    result = run_kademlia(60, 60, seed=3, cpu_clock=lambda: next(ticks))
    assert (result.nodes, result.lookups, result.found) == (60, 60, 60)
    assert result.cpu_s == 4.0
    assert result.frames == result.join_frames + result.lookup_frames
    assert result.frames_per_cpu_s == result.frames / 4.0


def test_frames_do_not_depend_on_whether_they_are_encoded_but_the_seed_matters():
    plain, encoded, other = run_kademlia(30, 10), run_kademlia(30, 10, encoded=True), run_kademlia(30, 10, seed=2)
    assert plain.digest == encoded.digest != other.digest
    assert plain.frames == encoded.frames
    assert math.isnan(plain.cpu_s)


def test_the_scenario_runs_under_churn_and_says_so():
    scenario = Scenario.named("kademlia-10k").replace(providers=30, topology="synthetic", churn="spot")
    summary = run_kademlia_scenario(scenario, 1)
    assert summary["nodes"] == 30 and 10 < summary["up_mean"] < 30
    assert 0.97 <= summary["lookups_found"] / summary["lookups"] <= 1.0
    assert summary["stale_records"] == 0
    with pytest.raises(UsageError, match="frames=sized"):
        run_kademlia_scenario(scenario.replace(frames="encoded"), 1)


def test_a_quantile_is_the_smallest_value_that_covers_the_share():
    assert [compute_quantile([4, 1, 3, 2], q) for q in (0.25, 0.26, 0.95, 1.0)] == [1, 2, 4, 4]
    assert math.isnan(compute_quantile([], 0.5))
