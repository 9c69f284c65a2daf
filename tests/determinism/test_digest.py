"""Same seed, same digest in one process; each planted difference is found and named."""

from __future__ import annotations

import math

import pytest

from sim.loop import SimLoop
from sim.scenario import Scenario
from sim.trace import first_divergence
from sim.transport import SimStream
from sim.world import World

SCENARIO = Scenario.named("tour").replace(duration_s=20.0, providers=8, topology="synthetic", workload="azure-conv")


def run(**changes):
    world = World(SCENARIO.replace(**changes), 1, record=True)
    world.run(progress=False)
    return world.trace


@pytest.fixture(scope="module")
def reference():
    return run()


def test_the_same_seed_gives_the_same_trace_and_another_seed_another(reference):
    again = run()
    assert again.digest() == reference.digest()
    assert first_divergence(again, reference) is None
    other = World(SCENARIO, 2)
    other.run(progress=False)
    assert other.trace.digest() != reference.digest()


def differs(reference):
    trace = run()
    assert trace.digest() != reference.digest()
    message = first_divergence(reference, trace)
    assert message is not None and message.startswith("event ")
    return message


def test_one_extra_draw_is_found(reference, monkeypatch):
    start = World._start

    async def draw_first(self, clock):
        self.gateways[0].runtime.rng.random()
        await start(self, clock)

    monkeypatch.setattr(World, "_start", draw_first)
    differs(reference)


def test_one_bit_of_a_frame_is_found(reference, monkeypatch):
    on_frame, seen = SimStream._on_frame, []

    def flip_one(self, message, data):
        seen.append(None)
        if len(seen) == 100:
            data = bytes([data[0] ^ 1]) + data[1:]
        on_frame(self, message, data)

    monkeypatch.setattr(SimStream, "_on_frame", flip_one)
    assert "frame" in differs(reference)


def test_one_ulp_of_delay_is_found(reference, monkeypatch):
    deliver_at, seen = SimLoop.deliver_at, []

    def late_once(self, when, function, *args):
        seen.append(None)
        deliver_at(self, math.nextafter(when, math.inf) if len(seen) == 500 else when, function, *args)

    monkeypatch.setattr(SimLoop, "deliver_at", late_once)
    assert "t = " in differs(reference)


def test_another_order_of_the_same_peers_is_found(reference, monkeypatch):
    from quiver.selection.candidates import CandidateTable

    candidates = CandidateTable.candidates

    def reversed_once(self, *args, **kwargs):
        return list(reversed(candidates(self, *args, **kwargs)))

    monkeypatch.setattr(CandidateTable, "candidates", reversed_once)
    differs(reference)
