"""The synthetic twins beside the traces they stand in for, and what a run says about which it had."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from sim import Scenario, data, twins
from sim.__main__ import main
from sim.workload import Workload

HERE = {row.name for row in data.status() if row.state in {"ok", "converted"}}
LEVELS = [0.5, 0.95, 0.99]
# Relative; the twins are fitted to the published figures of the whole traces, of which the data folder has the beginning.
TOLERANCE = 0.20
# Arrival rates of the beginning and of the whole differ by as much.
RATE_TOLERANCE = 0.20
# What the twins' documentation states: below the median the curve is an assumption.
DISTANCE_STATED, LOWER_QUARTILE_STATED = (0.11, 0.36), (0.34, 0.67)


def compute_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Kolmogorov-Smirnov: the largest difference of the two distribution functions."""
    at = np.union1d(one, other)
    return float(max(abs(np.searchsorted(np.sort(one), at, "right") / len(one)
                         - np.searchsorted(np.sort(other), at, "right") / len(other))))  # fmt: skip


def read_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """(trace, twin) lengths of every trace that is here."""
    names = [name for name in twins.TWINS if name in HERE]
    return [
        (getattr(Workload.named(name), column), getattr(twins.synthetic(name, seed=1), column))
        for name in names
        for column in ("input_tokens", "output_tokens")
    ]


@pytest.mark.parametrize("column", ["input", "output"])
@pytest.mark.parametrize("name", sorted(twins.TWINS))
def test_a_twin_has_the_published_quantiles(name, column):
    lengths: twins.Lengths = getattr(twins.TWINS[name], column)
    sample = getattr(twins.synthetic(name, seed=1, requests=100_000), f"{column}_tokens")
    # Exactly but for rounding to whole tokens and the noise of 100,000 draws: 2 % (one sigma) at Mooncake's steep p95.
    assert np.quantile(sample, LEVELS) == pytest.approx([lengths.p50, lengths.p95, lengths.p99], rel=0.06)
    assert sample.mean() == pytest.approx(lengths.mean, rel=0.01)


@pytest.mark.parametrize("name", sorted(twins.TWINS))
def test_a_twin_has_the_quantiles_of_the_real_trace(name):
    if name not in HERE:
        pytest.skip(f"{name} is not in the data folder: python -m sim data fetch {name}")
    real, twin = Workload.named(name), twins.synthetic(name, seed=1)
    for column in ("input_tokens", "output_tokens"):
        measured, drawn = getattr(real, column), getattr(twin, column)
        assert np.quantile(drawn, LEVELS) == pytest.approx(np.quantile(measured, LEVELS), rel=TOLERANCE)
        assert drawn.mean() == pytest.approx(measured.mean(), rel=0.06)
    assert twin.rate_rps == pytest.approx(real.rate_rps, rel=RATE_TOLERANCE)
    # A CV of 13 rests on a few long gaps: half of it may be missing from a sample.
    assert twin.gap_cv == pytest.approx(real.gap_cv, rel=0.05 if real.gap_cv < 2 else 0.5)


def test_the_shortfalls_of_the_twins_are_those_their_documentation_states():
    pairs = read_pairs()
    if len(pairs) < 2 * len(twins.TWINS):
        pytest.skip("not all traces are in the data folder: python -m sim data fetch")
    distances = [compute_distance(measured, drawn) for measured, drawn in pairs]
    assert (min(distances), max(distances)) == pytest.approx(DISTANCE_STATED, abs=0.01)
    below = [1 - np.quantile(drawn, 0.25) / np.quantile(measured, 0.25) for measured, drawn in pairs]
    assert (min(below), max(below)) == pytest.approx(LOWER_QUARTILE_STATED, abs=0.01)
    stated = [float(text) for text in re.findall(r"0\.\d\d", (twins.__doc__ or "").split("measured against")[1])]
    assert tuple(stated) == DISTANCE_STATED
    percents = [
        int(text) / 100 for text in re.findall(r"\b(\d\d) (?:%|to)", (twins.__doc__ or "").split("lower quartile")[1])
    ]
    assert tuple(percents[:2]) == LOWER_QUARTILE_STATED


def run_tour(capsys) -> dict[str, object]:
    assert main(["run", "tour", "--json", "--set", "duration_s=5", "--set", "providers=4"]) == 0
    summary: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return summary


def test_a_run_without_data_says_synthetic(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path))
    assert run_tour(capsys)["data"] == "synthetic"


def test_a_run_on_measured_arrivals_lengths_and_links_says_real(capsys):
    if not {"azure-conv", "planetlab"} <= HERE:
        pytest.skip(
            "azure-conv and planetlab are not in the data folder: python -m sim data fetch azure-conv planetlab"
        )
    assert run_tour(capsys)["data"] == "real"


@pytest.mark.parametrize("changes", [{"topology": "synthetic"}, {"workload": "azure-conv-synthetic"}])
def test_one_stand_in_makes_a_run_synthetic(changes):
    from sim import World

    scenario = Scenario.named("tour").replace(providers=4, gateways=1, duration_s=5.0, **changes)
    result = World(scenario, seed=1).run(progress=False)
    assert result.summary["data"] == "synthetic"
    assert "topology" in result.manifest["data_note"] and "synthetic" in result.manifest["data_note"]
