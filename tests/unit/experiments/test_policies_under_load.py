"""The experiment's finding is computed from rows: planted rows with and without a crossing are told apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pandas as pd

from experiments import harness, policies_under_load
from sim.scenario import Scenario
from sim.sweep import Runs

SEEDS = range(4)


@dataclass
class Rows:
    """A policy's TTFT at each load, the same for all requests but for the seed's own offset."""

    ttft_s: dict[tuple[str, float], float]
    failed: int = 0
    rows: list[dict] = field(default_factory=list)

    def runs(self):
        scenarios, results = [], []
        for (policy, load), ttft_s in self.ttft_s.items():
            for seed in SEEDS:
                wiggle_s = 0.01 * seed * (1 if policy == "a" else 1.1)
                outcomes = ["failed"] * self.failed + ["completed"] * (10 - self.failed)
                frame = pd.DataFrame({
                    "policy": policy, "seed": seed, "arrived_s": 50.0, "outcome": outcomes, "ttft_s": ttft_s + wiggle_s,
                    "e2e_s": 2 * ttft_s + wiggle_s,
                })  # fmt: skip
                summary = {
                    "policy": policy, "seed": seed, "requests": 10, "completed": 10 - self.failed, "scenario_hash": "h",
                    "data": "synthetic", "fidelity": {"frames": "sized"},
                }  # fmt: skip
                scenarios.append(Scenario(policy=policy, load=load))
                results.append(SimpleNamespace(requests=frame, summary=summary))
        return Runs(scenarios=scenarios, results=results)


def test_a_crossing_beyond_the_noise_is_found_and_named():
    runs = Rows({("a", 0.5): 1.0, ("b", 0.5): 2.0, ("a", 0.9): 5.0, ("b", 0.9): 3.0}).runs()
    assert policies_under_load.find_crossings(runs) == [("a", "b", 0.5, 0.9)]
    finding = policies_under_load.find(runs)
    assert "At load 0.5 the order by p99 TTFT is a 1.0 s, b 2.0 s." in finding
    assert "b passes a between 0.5 and 0.9" in finding


def test_a_load_where_two_are_level_is_passed_over():
    runs = Rows({("a", 0.5): 1.0, ("b", 0.5): 2.0, ("a", 0.7): 2.0, ("b", 0.7): 2.0 - 0.0015,
                 ("a", 0.9): 3.0, ("b", 0.9): 2.0}).runs()  # fmt: skip
    assert policies_under_load.find_crossings(runs) == [("a", "b", 0.5, 0.9)]


def test_no_crossing_is_said_and_what_was_lost_is_told():
    runs = Rows({("a", 0.5): 1.0, ("b", 0.5): 2.0, ("a", 0.9): 2.0, ("b", 0.9): 3.0}, failed=1).runs()
    assert policies_under_load.find_crossings(runs) == []
    finding = policies_under_load.find(runs)
    assert "No pair of policies changes places" in finding and "At most 10.0% of requests were not completed" in finding


def test_the_figure_shows_every_measure_and_what_it_is_made_of():
    runs = Rows({("a", 0.5): 1.0, ("b", 0.5): 2.0, ("a", 0.9): 5.0, ("b", 0.9): 3.0}).runs()
    frame = policies_under_load.summarise(runs)
    assert set(frame["measure"]) == {"ttft_s_p50", "ttft_s_p99", "e2e_s_p50", "e2e_s_p99", "lost_share"}
    assert (frame["n_seeds"] == len(SEEDS)).all()
    labels = {axes.get_ylabel() for axes in policies_under_load.figure(frame).axes}
    assert {"TTFT p99 (s)", "rejected, failed or unfinished (share)", "rank by TTFT p99 (1 is fastest)"} <= labels
    assert harness.describe(runs).startswith("Simulated; synthetic data; frames sized; 4 seeds. Bands")


def test_the_same_requests_are_offered_at_every_load():
    quick = policies_under_load.scenarios(quick=True)
    spans = {scenario.load: scenario.duration_s * scenario.load for scenario in quick}
    assert max(spans.values()) - min(spans.values()) < 1e-9
    assert len({scenario.load_workload(1).checksum() for scenario in quick}) == 1
