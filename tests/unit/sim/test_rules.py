"""Link rules by hand, and their statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quiver.errors import UsageError
from sim.rng import Substreams
from sim.rules import DROP, Bandwidth, Jitter, Links, Loss, MatrixLatency, Partition
from sim.topology import Topology


def make(nodes: int = 4, rtt_s: float = 0.1, up: float = 8e6, down: float = 8e6, **options: float) -> Topology:
    return Topology(
        name="hand", label="synthetic", rtt_s=np.full((nodes, nodes), rtt_s), row_of=range(nodes),
        regions=[f"r{row % 2}" for row in range(nodes)], bandwidth_bps=[(up, down)] * nodes, **options,
    )  # fmt: skip


def test_rules_add_up_and_any_cut_wins():
    topology = make()
    links = Links(topology, [MatrixLatency(topology), Bandwidth(topology), Partition({0: "a", 3: "b"}, end_s=5.0)])
    # 0.05 s of distance and 1000 bytes at 1 byte/us.
    assert links.delay_s(0, 1, 1000, 0.0) == pytest.approx(0.051)
    assert links.delay_s(0, 3, 1000, 1.0) == DROP
    assert links.delay_s(0, 3, 1000, 5.0) == pytest.approx(0.051)
    assert Links(topology).delay_s(0, 1, 10**9, 0.0) == pytest.approx(0.05)


def test_a_handshake_is_one_round_trip_without_queues_but_with_cuts():
    topology = make()
    links = Links(
        topology, [MatrixLatency(topology), Bandwidth(topology), Partition.isolate([3], 4, start_s=2.0, end_s=3.0)]
    )
    for _ in range(2):
        assert links.handshake_s(0, 3, 0.0) == pytest.approx(0.1)
    assert links.handshake_s(0, 3, 2.0) == DROP
    assert links.handshake_s(0, 3, 3.0) == pytest.approx(0.1)
    assert links.handshake_s(0, 1, 2.0) == pytest.approx(0.1)


def test_an_uplink_serves_frames_one_after_another():
    rule = Bandwidth(make())
    assert rule.delay_s(0, 1, 1000, 0.0) == pytest.approx(0.001)
    assert rule.delay_s(0, 2, 1000, 0.0) == pytest.approx(0.002)
    # At 0.0015 half a frame is left; another 1000 bytes go behind it.
    assert rule.delay_s(0, 3, 1000, 0.0015) == pytest.approx(0.0015)
    assert rule.delay_s(0, 3, 1000, 1.0) == pytest.approx(0.001)


def test_the_slower_end_decides_and_a_busy_downlink_queues():
    rule = Bandwidth(make(up=8e6, down=4e6))
    assert rule.delay_s(0, 3, 1000, 0.0) == pytest.approx(0.002)
    assert rule.delay_s(1, 3, 1000, 0.0) == pytest.approx(0.004)


def test_jitter_is_keyed_by_pair_and_time_alone():
    topology = make(20, log_rtt_sigma=0.5)
    busy, quiet = Jitter(topology, Substreams(1), pairs_max=3), Jitter(topology, Substreams(1))
    times = [slot * 7.0 for slot in range(300)]
    for at in times:
        for peer in range(2, 10):
            busy.delay_s(0, peer, 100, at)
    for at in reversed(times):
        assert busy.delay_s(0, 1, 100, at) == pytest.approx(quiet.delay_s(1, 0, 5, at), abs=1e-12)
    assert quiet.delay_s(0, 1, 1, 0.0) != Jitter(topology, Substreams(2)).delay_s(0, 1, 1, 0.0)


def test_log_rtt_has_the_measured_autocorrelation_spread_and_median():
    topology = make(31, log_rtt_sigma=0.6)
    rule = Jitter(topology, Substreams(3))
    logs = np.array([
        [math.log1p(rule.delay_s(0, peer, 1, (slot + 0.5) * 15.7) / 0.05) for slot in range(640)]
        for peer in range(1, 31)
    ])  # fmt: skip
    assert logs.std() == pytest.approx(0.6, rel=0.05)
    assert logs.mean() == pytest.approx(0.0, abs=0.05)
    assert (logs[:, 1:] * logs[:, :-1]).mean() / logs.var() == pytest.approx(0.81, abs=0.02)


def test_no_sigma_means_no_jitter_and_a_cut_stays_a_cut():
    assert Jitter(make(), Substreams(1)).delay_s(0, 1, 1, 3.0) == 0.0
    cut = make(rtt_s=math.inf, log_rtt_sigma=0.5)
    assert Links.realistic(cut, Substreams(1)).delay_s(0, 1, 1, 3.0) == DROP
    with pytest.raises(UsageError):
        Jitter(make(), Substreams(1), autocorrelation=1.0)


def test_loss_hits_a_frame_as_often_as_its_packets_say_and_costs_a_probe_timeout():
    rule = Loss(make(), Substreams(1), probability=0.1)
    one = [rule.delay_s(0, 1, 1200, at / 100) for at in range(20_000)]
    three = [rule.delay_s(0, 1, 1201 + 1200, at / 100) for at in range(20_000)]
    assert np.mean([delay > 0 for delay in one]) == pytest.approx(0.1, abs=0.008)
    # 1 - 0.9^3 = 0.271
    assert np.mean([delay > 0 for delay in three]) == pytest.approx(0.271, abs=0.012)
    # 1.5 * 0.1 s + 25 ms = 0.175 s once; a second loss doubles the wait: 0.525 s in all.
    assert {round(delay, 6) for delay in one} >= {0.0, 0.175, 0.525}
    assert one[:100] == [
        Loss(make(), Substreams(1), probability=0.1).delay_s(0, 1, 1200, at / 100) for at in range(100)
    ]
    assert Loss(make(), Substreams(1), probability=0.0).delay_s(0, 1, 1200, 1.0) == 0.0
    with pytest.raises(UsageError):
        Loss(make(), Substreams(1), probability=1.0)


def test_a_region_can_be_cut_off():
    topology = make()
    rule = Partition.regions(topology, "r1", start_s=1.0, end_s=2.0)
    assert rule.delay_s(0, 1, 1, 1.0) == DROP and rule.delay_s(1, 3, 1, 1.0) == 0.0
    assert rule.delay_s(0, 1, 1, 0.9) == rule.delay_s(0, 1, 1, 2.0) == 0.0
    with pytest.raises(UsageError, match="r9"):
        Partition.regions(topology, "r9")


def test_realistic_takes_only_the_rules_that_do_something():
    endless = make(up=math.inf, down=math.inf)
    assert [type(rule) for rule in Links.realistic(endless, Substreams(1)).rules] == [MatrixLatency]
    full = Links.realistic(make(log_rtt_sigma=0.1), Substreams(1), loss=0.01, extra=[Partition({})])
    assert [type(rule) for rule in full.rules] == [MatrixLatency, Jitter, Bandwidth, Loss, Partition]
    with pytest.raises(UsageError):
        Links(endless, [])
