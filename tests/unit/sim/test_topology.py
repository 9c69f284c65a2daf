"""Delays, filled gaps and regions, by hand; measured matrices against the published quantiles."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from quiver.errors import UsageError
from sim import data
from sim.data import DataMissing
from sim.topology import Topology, assign_rows, compute_zones, draw_bandwidth, fill_missing

HERE = {row.name for row in data.status() if row.state in {"ok", "converted"}}
NAN = math.nan


def make(rtt_s: list[list[float]], row_of: list[int], **options: object) -> Topology:
    regions = [f"r{row}" for row in range(len(rtt_s))]
    return Topology(
        name="hand", label="synthetic", rtt_s=np.array(rtt_s, float), row_of=row_of, regions=regions, **options
    )  # type: ignore[arg-type]


def test_one_way_is_half_the_rtt_and_one_row_is_a_millisecond():
    topology = make([[0, 0.1], [0.3, 0]], [0, 1, 1])
    assert topology.delay_s(0, 1) == pytest.approx(0.05)
    assert topology.delay_s(1, 0) == pytest.approx(0.15)
    assert topology.rtt_s(0, 2) == pytest.approx(0.2)
    assert topology.rtt_s(1, 2) == pytest.approx(0.001)
    assert [topology.region_of(node) for node in range(3)] == ["r0", "r1", "r1"]
    assert topology.bandwidth_bps(0) == (math.inf, math.inf)


def test_rows_that_are_regions_keep_their_inner_rtt():
    assert make([[0.03, 0.1], [0.1, 0.05]], [0, 0, 1, 1], rows_are_hosts=False).rtt_s(2, 3) == pytest.approx(0.05)


def test_a_missing_entry_takes_the_reverse_then_the_mean_of_medians():
    filled = fill_missing(np.array([[NAN, 4, NAN, 6], [NAN, NAN, 1, 3], [NAN, 1, NAN, 5], [6, 3, 5, NAN]], float))
    assert filled[1, 0] == 4
    # Row 0 knows 4, 6 (median 5); row 2 knows 1, 5 (median 3): their mean is 4.
    assert filled[0, 2] == filled[2, 0] == 4
    assert not np.isnan(fill_missing(np.full((3, 3), NAN))).any()


def test_nodes_use_all_rows_before_any_row_twice():
    rows = assign_rows(10, 4, 1, "x")
    assert sorted(rows[:4]) == sorted(rows[4:8]) == [0, 1, 2, 3]
    assert rows == assign_rows(10, 4, 1, "x") != assign_rows(10, 4, 2, "x")


def test_zones_follow_distance():
    near, far = 0.01, 1.0
    rtt = np.array([[0, near, far, far], [near, 0, far, far], [far, far, 0, near], [far, far, near, 0]])
    zones = compute_zones(rtt, 2)
    assert zones[0] == zones[1] != zones[2] == zones[3]


def test_a_graph_gives_shortest_paths_and_cuts_what_is_not_connected():
    graph = nx.Graph()
    graph.add_edge("a", "b", delay_s=0.1)
    graph.add_edge("b", "c", delay_s=0.2)
    graph.add_edge("a", "c", delay_s=0.5)
    graph.add_node("d", region="island")
    topology = Topology.from_graph(graph)
    assert topology.delay_s(0, 2) == pytest.approx(0.3)
    assert topology.delay_s(0, 3) == math.inf
    assert topology.region_of(3) == "island" and topology.region_of(0) == "a"
    assert len(Topology.from_graph(graph, nodes=9)) == 9
    graph.add_edge("c", "d")
    with pytest.raises(UsageError, match="delay_s"):
        Topology.from_graph(graph)


def test_the_synthetic_world_follows_distance_and_repeats_by_seed():
    topology = Topology.synthetic(300, seed=4)
    rtts = [topology.rtt_s(0, node) for node in range(1, 300) if topology.row_of[node] != topology.row_of[0]]
    # 31 ms for no distance, 31 + 17.4 * 20.0 = 379 ms for half the equator.
    assert min(rtts) >= 0.031 and max(rtts) <= 0.380
    assert topology.one_way_s == Topology.synthetic(300, seed=4).one_way_s != Topology.synthetic(300, seed=5).one_way_s
    assert topology.label == "synthetic"


def test_bandwidth_meets_the_country_deciles():
    up, down = np.array(draw_bandwidth(20_000, 1)).T / 1e6
    assert np.median(up) == pytest.approx(19.9, rel=0.05) and np.median(down) == pytest.approx(36.2, rel=0.05)
    assert up.min() >= 9.8 and down.max() <= 126.5


def test_impossible_topologies_are_refused():
    with pytest.raises(UsageError, match="outside"):
        make([[0.0]], [1])
    with pytest.raises(UsageError, match="square"):
        Topology(name="x", label="synthetic", rtt_s=np.zeros((2, 3)), row_of=[0], regions=["a", "b"])
    with pytest.raises(UsageError, match="seattle"):
        Topology.named("mars", 3)


def test_without_data_a_name_fails_clearly_or_falls_back_labelled(tmp_path, monkeypatch):
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path))
    with pytest.raises(DataMissing, match="planetlab"):
        Topology.named("planetlab", 10)
    assert Topology.named("planetlab", 10, fallback=True).label == "synthetic"


@pytest.mark.parametrize(
    "name, sigma, median_s, p95_s", [("planetlab", 0.017, 0.14, 0.333), ("seattle", 0.62, 0.17, 0.45)]
)
def test_a_measured_matrix_keeps_its_quantiles(name, sigma, median_s, p95_s):
    if name not in HERE:
        with pytest.raises(DataMissing):
            Topology.named(name, 10)
        return
    topology = Topology.named(name, 400, seed=1)
    rtts = [2 * d for i, row in enumerate(topology.one_way_s) for j, d in enumerate(row) if i != j]
    assert np.quantile(rtts, [0.5, 0.95]) == pytest.approx([median_s, p95_s], rel=0.03)
    assert topology.log_rtt_sigma == pytest.approx(sigma, rel=0.05)
    assert topology.label == "real" and len({topology.region_of(node) for node in range(400)}) == 6


def test_simblock_has_six_regions_with_their_latency_and_bandwidth():
    if not {"simblock-latency", "simblock-bandwidth"} <= HERE:
        with pytest.raises(DataMissing):
            Topology.named("simblock", 10)
        return
    topology = Topology.named("simblock", 500, seed=1)
    europe = [node for node in range(500) if topology.region_of(node) == "EUROPE"]
    america = next(node for node in range(500) if topology.region_of(node) == "NORTH_AMERICA")
    assert topology.rtt_s(europe[0], america) == pytest.approx(0.124)
    assert topology.rtt_s(europe[0], europe[1]) == pytest.approx(0.011)
    assert topology.bandwidth_bps(america) == (19.2e6, 52e6)
    assert len(europe) / 500 == pytest.approx(0.5, abs=0.07)
