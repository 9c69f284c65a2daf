"""Statistics over runs, by hand: axes and labels, bands over seeds, pairs, and groups that must not mix."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import pandas as pd
import pytest

from quiver.errors import UsageError
from sim import Scenario, World
from sim.churn import per_hour
from sim.intervals import compute_interval
from sim.pricing import Spread
from sim.result import Result
from sim.runs import Runs, find_axes
from sim.workload import poisson

BASE = Scenario.named("tour").replace(topology="synthetic", workload="azure-conv-synthetic")


def make_result(scenario: Scenario, seed: int, ttft_s: list[float]) -> Result:
    count = len(ttft_s)
    requests = pd.DataFrame(
        {"policy": scenario.policy, "seed": seed, "arrived_s": [10.0 * n for n in range(count)], "ttft_s": ttft_s,
         "outcome": ["completed"] * (count - 1) + ["failed"], "error": ""}
    )  # fmt: skip
    summary = {
        "seed": seed, "policy": scenario.policy, "data": "synthetic", "fidelity": {"frames": "sized"},
        "scenario_hash": str(hash(repr(scenario.describe()))), "requests": count, "completed": count - 1,
        "ttft_s": {"p50": 1.0, "p99": None},
    }  # fmt: skip
    empty = pd.DataFrame()
    return Result(
        requests=requests, providers=empty, epochs=empty, evidence=empty, summary=summary, manifest={}, digest=""
    )


def make_runs(**changes: list[object]) -> Runs:
    """Two policies, seeds 1 and 2; latencies are 1, 2, 3 times the seed, and ten times that for `random`."""
    sweep = BASE.sweep(policy=["power-of-two", "random"], **changes)
    jobs = [(scenario, seed) for scenario in sweep.scenarios for seed in (1, 2)]
    results = [
        make_result(s, seed, [seed * n * (10.0 if s.policy == "random" else 1.0) for n in (1, 2, 3, 100)])
        for s, seed in jobs
    ]
    return Runs(scenarios=[s for s, _ in jobs], results=results)


def test_a_summary_is_the_mean_over_seeds_of_each_seeds_quantile():
    table = make_runs().summary("ttft_s", q=0.5)
    # Medians of completed requests are 2 and 4: mean 3, t(0.975, 1) = 12.706, s / sqrt(2) = 1.
    first = table.iloc[0]
    assert first["policy"] == "power-of-two" and first["estimate"] == 3.0 and first["n_seeds"] == 2
    assert (first["low"], first["high"]) == pytest.approx((3 - 12.706, 3 + 12.706))
    assert table["estimate"].tolist() == [3.0, 30.0]


def test_a_comparison_is_of_the_same_seed():
    (row,) = make_runs().compare("ttft_s", q=0.5, baseline="power-of-two").to_dict("records")
    # 20 - 2 and 40 - 4.
    assert (row["policy"], row["difference"], row["n_seeds"]) == ("random", 27.0, 2)
    assert row["high"] - row["difference"] == pytest.approx(12.706 * 9.0)


def test_warm_up_is_cut_from_every_run():
    runs = make_runs(warmup_s=[15.0])
    # Of arrivals at 0, 10, 20 and 30 s only the third is left: the fourth failed.
    assert runs.summary("ttft_s", q=0.5)["estimate"].tolist() == [4.5, 45.0]


def test_runs_that_differ_in_something_else_never_share_a_group():
    runs = make_runs(load=[0.5, 0.9])
    with pytest.raises(UsageError, match=r"would mix runs that differ in load: say by=\['policy', 'load'\]"):
        runs.summary("ttft_s")
    assert len(runs.summary("ttft_s", by=["policy", "load"])) == 4
    compared = runs.compare("ttft_s", q=0.5, baseline="power-of-two")
    assert compared["load"].tolist() == [0.5, 0.9] and compared["difference"].tolist() == [27.0, 27.0]


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (lambda r: r.summary("ttft"), "no column 'ttft'; there are: policy"),
        (lambda r: r.summary("ttft_s", by="churn"), "no column 'churn'"),
        (lambda r: r.summary("error"), "column 'error' holds no numbers"),
        (lambda r: r.summary("ttft_s", q=50.0), "q is a quantile from 0 to 1, not 50"),
        (lambda r: r.compare("ttft_s", baseline="best"), "no policy is called 'best'; there are: power-of-two, random"),
    ],
)
def test_mistakes_are_named(ask, complaint):
    with pytest.raises(UsageError, match=complaint):
        ask(make_runs())


def test_axes_are_what_differs_and_label_plugs_apart():
    sweep = BASE.sweep(churn=["none", per_hour(1.0), per_hour(2.0), 3.0], k=[10, 20])
    axes = find_axes(sweep.scenarios)
    assert list(axes) == ["churn", "k"]
    assert axes["churn"][::2] == ["none", "1/h", "2/h", "3"] and axes["k"][:2] == [10, 20]

    first, second = Spread(0.1), Spread(0.3)
    labels = find_axes(BASE.sweep(pricing=[first, second, Spread(0.1)]).scenarios)["pricing"]
    assert labels == ["Spread", "Spread #2", "Spread"]
    loads = find_axes(BASE.sweep(load=[None, 0.5]).scenarios)["load"]
    assert loads == [None, 0.5]


def test_workloads_are_told_apart_by_content():
    one, other = (poisson(rate_rps=rate, duration_s=60.0) for rate in (1.0, 2.0))
    assert find_axes(BASE.sweep(workload=[one, other]).scenarios)["workload"] == ["poisson", "poisson #2"]


def test_an_interval_of_one_value_is_open():
    mean, low, high = compute_interval([4.0])
    assert mean == 4.0 and math.isnan(low) and math.isnan(high)
    assert all(map(math.isnan, compute_interval([])))
    assert compute_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 4.303 / 3**0.5, 2.0 + 4.303 / 3**0.5))


class Cells(HTMLParser):
    """Texts of a page; fails on a tag that nobody closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_notebook_shows_scenario_sweep_result_and_runs_as_tables():
    hostile = BASE.replace(name="<b>tour</b>", providers=7)
    shown = Cells(hostile._repr_html_()).texts
    assert "<b>tour</b>" in " ".join(shown) and "providers" in shown and "7" in shown and "loss" not in shown
    assert {"runs", "4", "policy"} <= set(
        Cells(BASE.sweep(policy=["random", "oracle"], seed=[1, 2])._repr_html_()).texts
    )
    told = Cells(make_runs(load=[0.5, 0.9])._repr_html_()).texts
    assert "8 simulated runs, 2 seeds; TTFT is the mean over runs" in told and "6 of 8" in told and "none" in told
    result = World(BASE.replace(providers=4, gateways=1, duration_s=5.0), seed=1).run(progress=False)
    assert any("synthetic data, simulated" in text for text in Cells(result._repr_html_()).texts)
