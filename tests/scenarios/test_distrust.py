"""Gateways that act on their detectors: who bills too much is asked less, and among the honest nothing changes."""

from __future__ import annotations

import pytest

from quiver.errors import UsageError
from sim import Scenario, World
from sim.adversary_providers import Overreporter

BASE = Scenario.named("tour").replace(
    providers=12, gateways=3, duration_s=240.0, arrivals=0.5, detectors="all", discovery="given", receipt_every_tokens=64,
    workload="azure-conv-synthetic", topology="synthetic",
)  # fmt: skip
# Two providers of twelve count two tokens for each they made.
CHEATED = BASE.replace(adversary=Overreporter(share=0.2, factor=2.0))
# Until then a gateway has not bought enough from anybody to judge.
JUDGED_S = 60.0


def play(scenario, seed):
    return World(scenario, seed=seed).run(progress=False)


def share_of_cheats(result):
    """Of the requests after `JUDGED_S` that a provider was asked for."""
    cheats = set(result.providers[result.providers["adversary"] == "over-report"]["provider"])
    assert len(cheats) == 2
    requests = result.requests
    asked = requests[(requests["arrived_s"] > JUDGED_S) & requests["provider"].notna()]
    assert len(asked) > 400
    return asked["provider"].isin(cheats).mean()


def test_who_counts_double_gets_less_than_half_of_the_requests_it_got_and_nobody_fails_for_it():
    blind, sharp = [], []
    for seed in (1, 2, 3):
        believing, acting = play(CHEATED, seed), play(CHEATED.replace(distrust=True), seed)
        blind.append(share_of_cheats(believing))
        sharp.append(share_of_cheats(acting))
        assert acting.summary["completed"] == believing.summary["completed"]
    # Measured: 9.9, 18.1 and 21.8 % become 3.7, 7.1 and 12.2 %.
    assert all(after < before for before, after in zip(blind, sharp, strict=True))
    assert sum(sharp) < 0.5 * sum(blind)


def test_among_the_honest_acting_changes_nothing():
    assert play(BASE, 1).digest == play(BASE.replace(distrust=True), 1).digest


def test_there_must_be_detectors_to_act_on():
    with pytest.raises(UsageError, match="distrust needs detectors to act on"):
        BASE.replace(detectors=(), distrust=True)
