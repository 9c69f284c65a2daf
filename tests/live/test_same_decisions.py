"""A policy that was simulated decides alike on a live gateway: same class, same inputs, same draws, same choices."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pandas as pd
import pytest

from quiver.live.devnet import MOCK_MODEL, Devnet
from quiver.live.roles import policy_spec
from quiver.selection import plugin
from quiver.selection.policy import rank
from sim import Scenario, World, export
from sim.workload import Workload
from tests.live import recorder
from tests.live.recorder import Asked, Told

RECORDER = f"{Path(recorder.__file__)}:Recorder"


class Mine:
    """Uses all a policy may use: what is reported, what is measured, what it learned, and draws."""

    name = "mine"

    def __init__(self):
        self.served = {}

    def choose(self, request, candidates, *, now, rng):
        """The least loaded; who served us lately a little less, and some noise."""

        def score(one):
            load = (one.in_flight + one.reported_queued) / one.slots
            return load + 0.3 * self.served.get(one.peer, 0) + (one.rtt_s or 0.0) + rng.random()

        return rank(candidates, score, policy=self.name, reason="{score:.3f}", rng=rng)

    def on_outcome(self, outcome, *, now):
        """Half of what was, and one."""
        self.served[outcome.peer] = self.served.get(outcome.peer, 0) / 2 + outcome.ok


@pytest.fixture
def exported(tmp_path):
    """The class in a file of its own, as a notebook hands it to an operator."""
    return export(Mine, tmp_path / "mine.py")


def choices(records):
    return [record.decision for record in records if isinstance(record, Asked)]


def test_decisions_of_a_live_gateway_are_those_of_the_class_that_was_simulated(tmp_path, exported, monkeypatch):
    recording = tmp_path / "live.jsonl"
    monkeypatch.setenv(recorder.POLICY_VARIABLE, exported)
    monkeypatch.setenv(recorder.FILE_VARIABLE, str(recording))
    with Devnet(tmp_path / "net", policy=RECORDER, speed=0.0) as network:
        body = {"model": MOCK_MODEL, "prompt": "Whom do you take?", "max_tokens": 4}
        with ThreadPoolExecutor(4) as clients:
            answers = list(
                clients.map(lambda _: httpx.post(f"{network.gateway_url}/generate", json=body, timeout=30), range(24))
            )
    assert [answer.status_code for answer in answers] == [200] * 24
    records = recorder.read(recording)
    decided = choices(records)
    asked = [record for record in records if isinstance(record, Asked) and record.request.model == MOCK_MODEL]
    assert len(asked) >= 24 and sum(isinstance(record, Told) for record in records) >= 24
    # The recording is of real choices: both providers were taken, and some requests met others under way.
    assert len(Counter(one.decision.ranked[0].peer for one in asked)) == 2
    assert any(candidate.in_flight for one in asked for candidate in one.candidates)
    assert recorder.replay(records, plugin.resolve(Mine)) == decided
    # A class that decides otherwise is told apart.
    assert recorder.replay(records, lambda: Opposite()) != decided


class Opposite(Mine):
    """Learns nothing."""

    def on_outcome(self, outcome, *, now):
        """Deaf."""


def test_decisions_of_a_simulated_gateway_are_those_of_the_file_a_live_one_loads(tmp_path, exported, monkeypatch):
    recording = tmp_path / "sim.jsonl"
    monkeypatch.setenv(recorder.POLICY_VARIABLE, f"{Path(__file__)}:Mine")
    monkeypatch.setenv(recorder.FILE_VARIABLE, str(recording))
    # Ten requests a second, so that some meet others under way.
    rows = {"arrival_s": [0.1 * number for number in range(60)], "input_tokens": [200] * 60, "output_tokens": [50] * 60}
    workload = Workload.from_frame(pd.DataFrame(rows), name="steady", span_s=8.0)
    scenario = Scenario.named("tour").replace(
        policy=RECORDER, providers=6, workload=workload, arrivals=1.0, duration_s=8.0
    )
    assert World(scenario, seed=3).run(progress=False).summary["completed"] > 20
    records = recorder.read(recording)
    decided = choices(records)
    assert len(decided) > 20 and any(isinstance(record, Told) for record in records)
    live = plugin.load(policy_spec(exported, tmp_path / "gateway.toml"))
    assert recorder.replay(records, live) == decided
