"""Same seed, same digest in one process; each planted difference is found and named."""

from __future__ import annotations

import gc
import math
import re
import zlib

import pytest

from quiver.selection.candidates import CandidateTable
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
        # In every gateway: where the words that were skipped are ones `sample` would have rejected, a stream is in step
        # again, and the run truly is the same one.
        for gateway in self.gateways:
            gateway.runtime.rng.random()
        await start(self, clock)

    monkeypatch.setattr(World, "_start", draw_first)
    differs(reference)


def test_one_bit_of_a_frame_is_found_and_the_frame_is_named(reference, monkeypatch):
    on_frame, seen = SimStream._on_frame, []

    def flip_one(self, message, data):
        seen.append((self._node.network.env.now, message, data))
        if len(seen) == 100:
            data = bytes([data[0] ^ 1]) + data[1:]
        on_frame(self, message, data)

    monkeypatch.setattr(SimStream, "_on_frame", flip_one)
    found = differs(reference)
    now, message, data = seen[99]
    assert f"{type(message).__name__} at t = {now!r} s: payload CRC-32 {zlib.crc32(data):08x} against " in found


def test_one_ulp_of_delay_is_found_and_both_times_are_named(reference, monkeypatch):
    deliver_at, planted = SimLoop.deliver_at, []

    def late_once(self, when, function, *args):
        if not planted and getattr(function, "__func__", None) is SimStream._on_frame and when > 30.0:
            planted.append(when)
            when = math.nextafter(when, math.inf)
        deliver_at(self, when, function, *args)

    monkeypatch.setattr(SimLoop, "deliver_at", late_once)
    found = differs(reference)
    assert found.count(" at t = ") == 2
    assert f" at t = {planted[0]!r} s against " in found
    assert found.endswith(f" at t = {math.nextafter(planted[0], math.inf)!r} s")


def test_another_order_of_the_same_peers_is_found_at_the_first_channel(reference, monkeypatch):
    candidates = CandidateTable.candidates

    def reversed_order(self, *args, **kwargs):
        return list(reversed(candidates(self, *args, **kwargs)))

    monkeypatch.setattr(CandidateTable, "candidates", reversed_order)
    # Before any request: other providers get the first channels.
    assert re.fullmatch(
        r"event \d+: LedgerMoved at t = \S+ s: event\.transaction\.provider \w+ against .*", differs(reference)
    )


def test_the_moments_of_the_garbage_collector_do_not_matter(reference, monkeypatch):
    """Python versions collect at different moments: nothing that is collected may have a say in a run."""
    monkeypatch.setattr("sim.garbage.THRESHOLDS", (50, 2, 2))
    monkeypatch.setattr("sim.garbage.gc.freeze", lambda: None)
    collected = []
    gc.callbacks.append(lambda phase, info: collected.append(phase))
    try:
        trace = run()
    finally:
        gc.callbacks.pop()
    assert len(collected) > 100
    assert trace.digest() == reference.digest()
