"""The experiment's shares are computed from planted rows: who was meant, who was flagged, who was blamed."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from experiments import fraud
from sim.scenario import Scenario
from sim.sweep import Runs

FACTOR, EVERY_S = fraud.LEVELS[fraud.SHOWN_LEVEL]


def rows(detector, *found):
    """(provider, what it plays, whether the gateway or the aggregator suspects it) each, by two witnesses."""
    return [
        {
            "witness": witness,
            "provider": provider,
            "detector": detector,
            "adversary": plays,
            "suspicious": witness == by,
        }
        for provider, plays, by in found
        for witness in ("aggregator", "gateway-0")
    ]


def runs(*, blamed):
    scenario = fraud.scenarios(quick=True)[0]
    found = []
    for detector in fraud.TARGETS:
        found += rows(
            detector, ("p", "", blamed), ("q", "", ""), ("r", "over-report", "gateway-0"), ("s", "wash+over-report", "")
        )
    result = SimpleNamespace(evidence=pd.DataFrame(found))
    return Runs(scenarios=[scenario] * 2, results=[result] * 2)


def test_recall_precision_and_blame_by_hand():
    frame = fraud.summarise(runs(blamed="aggregator"))
    table = frame[frame["detector"] == "tokens"].set_index("measure")["estimate"]
    # Meant are r and s, flagged are r (by a gateway) and p; p is one of two honest ones.
    assert table.to_dict() == {"recall": 0.5, "precision": 0.5, "blamed": 0.5}
    assert set(frame["factor"]) == {FACTOR} and set(frame["every_s"]) == {EVERY_S} and set(frame["n_seeds"]) == {2}
    # Nobody sells answers again here, so there is nothing to recall, and every flag is wrong.
    replay = frame[frame["detector"] == "replay"].set_index("measure")["estimate"]
    assert "recall" not in replay and replay["precision"] == 0.0


def test_the_finding_says_who_is_blamed():
    assert "No detector blames more than 50.0% of the honest providers." in fraud.find(runs(blamed="aggregator"))
    assert "blames more than 0.0%" in fraud.find(runs(blamed=""))


@pytest.mark.parametrize("quick", [True, False])
def test_every_kind_of_cheat_is_in_every_scenario(quick):
    kinds = {kind for targets in fraud.TARGETS.values() for kind in targets}
    for scenario in fraud.scenarios(quick):
        assert isinstance(scenario, Scenario) and len(scenario.adversary_plugs) == len(kinds)


def test_the_figure_has_units():
    axes = fraud.figure(fraud.summarise(runs(blamed="aggregator"))).axes
    assert [axis.get_ylabel() for axis in axes] == ["share", "recall (share of the cheats it is for)"]
