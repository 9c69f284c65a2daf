"""The cell everything serves, as docs and README promise it, made small by arguments only."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from quiver.selection.policy import rank
from quiver.selection.power_of_two import PowerOfTwo
from sim import Scenario, World
from sim.runs import Runs

CELL = """
from sim import Scenario, World
base = Scenario.named("azure-planetlab").replace(providers=1000, duration_s=600)
result = World(base, seed=1).run()                       # -> Result: frames, summary, digest, manifest
runs = base.sweep(policy=[PowerOfTwo, Mine], seed=range(10)).run()      # progress, all cores, resumes
runs.requests                                            # one tidy frame; columns in docs/metrics.md
runs.summary("ttft_s", q=[.5, .95, .99], by="policy")    # estimate, low, high, n_seeds
runs.compare("ttft_s", q=.99, by="policy", baseline="PowerOfTwo")       # paired by seed: difference and interval
runs.plot.cdf("ttft_s", by="policy");  result.explain(request_id)
"""
SCALED_DOWN = {
    "providers=1000, duration_s=600": "providers=12, gateways=1, duration_s=20, arrivals=1.0, fallback=True",
    "seed=range(10)": "seed=range(2)",
    "request_id)": "result.requests['request_id'][0])",
}
SMALL = {"providers": 12, "gateways": 1, "duration_s": 20.0, "arrivals": 1.0, "fallback": True}


class Mine:
    """A policy under study: the fastest machine by its own word."""

    name = "mine"

    def choose(self, request, candidates, *, now, rng):
        return rank(candidates, lambda c: -c.reported_decode_tps, policy=self.name, reason="{score}", rng=rng)


@pytest.fixture(scope="module")
def base() -> Scenario:
    return Scenario.named("azure-planetlab").replace(**SMALL)


@pytest.fixture(scope="module")
def runs(base) -> Runs:
    return base.sweep(policy=[PowerOfTwo, Mine], seed=range(3)).run(processes=2, progress=False)


def test_the_cell_runs_word_for_word_but_for_its_size():
    text = CELL
    for large, small in SCALED_DOWN.items():
        assert text.count(large) == 1
        text = text.replace(large, small)
    space = {"PowerOfTwo": PowerOfTwo, "Mine": Mine}
    exec(compile(text, "cell", "exec"), space)
    assert len(space["runs"].results) == 4


def test_a_run_leaves_frames_summary_digest_and_manifest(base):
    result = World(base, seed=1).run(progress=False)
    assert len(result.requests) == result.summary["requests"] > 0
    assert len(result.digest) == 64 and result.manifest["summary"]["digest"] == result.digest
    request_id = result.requests["request_id"].iloc[0]
    assert result.explain(request_id)["request_id"] == request_id
    assert result.explain(request_id[:20])["gateway"] == "gateway-0"


def test_a_sweep_gives_one_tidy_frame(runs):
    assert set(runs.requests["policy"]) == {"PowerOfTwo", "Mine"}
    assert set(runs.requests["seed"]) == {0, 1, 2}
    assert len(runs.requests) == sum(len(result.requests) for result in runs.results)
    # The same requests meet every policy.
    first, second = (runs.requests[runs.requests["policy"] == name] for name in ("PowerOfTwo", "Mine"))
    assert first["request_id"].tolist() == second["request_id"].tolist()


def test_a_summary_has_bands_over_seeds(runs):
    table = runs.summary("ttft_s", q=[0.5, 0.95, 0.99], by="policy")
    assert table["q"].tolist() == [0.5, 0.5, 0.95, 0.95, 0.99, 0.99]
    assert set(table["n_seeds"]) == {3}
    assert (table["low"] < table["estimate"]).all() and (table["estimate"] < table["high"]).all()


def test_a_comparison_is_paired_by_seed(runs):
    (row,) = runs.compare("ttft_s", q=0.99, by="policy", baseline="PowerOfTwo").to_dict("records")
    per_seed = runs.requests.groupby(["policy", "seed"])["ttft_s"].quantile(0.99)
    assert row["difference"] == pytest.approx((per_seed["Mine"] - per_seed["PowerOfTwo"]).mean())
    assert row["policy"] == "Mine" and row["n_seeds"] == 3
    # The class itself names the baseline too.
    pd.testing.assert_frame_equal(runs.compare("ttft_s", q=0.99, by="policy", baseline=PowerOfTwo), pd.DataFrame([row]))


def test_a_plot_says_units_seeds_and_that_it_is_simulated(runs):
    figure = runs.plot.cdf("ttft_s", by="policy")
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_xlabel() == "time to first token (seconds)"
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "Simulated" in caption and "3 seeds" in caption and "bands reach" in caption
