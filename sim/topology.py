"""Where nodes are: one-way delays, regions and access bandwidth, from measured matrices or models.

Rules of this file: a topology is a small matrix of *rows* (measured hosts, regions, graph vertices) and a map from node
index to row, so thousands of nodes cost no n x n memory. One-way delay = RTT / 2; two nodes on one host's row get 1 ms RTT.
Missing entries take the reverse direction; missing both ways, the mean of the row's and the column's medians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import networkx as nx
import numpy as np

from quiver.errors import UsageError
from sim import data
from sim.plug import Plug, PlugPoint
from sim.rng import Substreams

SAME_ROW_RTT_S = 0.001
ROWS_MAX = 4096
"Rows of one matrix: 4,096 squared floats are 0.5 GB as Python lists."
ZONES = 6
"Regions that `compute_zones` makes of a matrix without region names."

# Country deciles 2020 of access bandwidth, Mbit/s at p10/p50/p90 (facts: down 14.9/36.2/126.5, up 9.8/19.9/95.8).
_DECILES = (0.1, 0.5, 0.9)
_DOWN_MBPS = (14.9, 36.2, 126.5)
_UP_MBPS = (9.8, 19.9, 95.8)
# Round-trip time of cities, 2018: 31 ms + 17.4 ms per 1000 km.
_CITY_RTT_S, _CITY_RTT_S_PER_KM = 0.031, 17.4e-6
_EARTH_KM = 6371.0
# (latitude, longitude, share of nodes): an assumption, roughly where public peer-to-peer nodes are counted.
_CENTRES = ((40, -95, 0.33), (50, 10, 0.37), (-15, -55, 0.03), (25, 105, 0.18), (36, 138, 0.06), (-30, 145, 0.03))
_SPREAD_DEGREES = 8.0


class Topology:
    """Nodes 0..n-1 on rows of a delay matrix.

    Examples
    --------
    >>> Topology.synthetic(4, seed=1).delay_s(0, 0)
    0.0005
    """

    def __init__(
        self,
        *,
        name: str,
        label: Literal["real", "synthetic"],
        rtt_s: np.ndarray,
        row_of: Sequence[int],
        regions: Sequence[str],
        bandwidth_bps: Sequence[tuple[float, float]] | None = None,
        log_rtt_sigma: float = 0.0,
        rows_are_hosts: bool = True,
    ) -> None:
        """`rtt_s`: (rows, rows) float64, seconds, nan where missing; `regions` one a row; bandwidth (up, down) one a node.

        `rows_are_hosts` False: a row is a whole region, and the matrix's diagonal is the RTT inside it.
        """
        rows = len(rtt_s)
        if rtt_s.shape != (rows, rows) or rows != len(regions) or not 0 < rows <= ROWS_MAX:
            raise UsageError(f"topology {name}: need a square matrix of 1 to {ROWS_MAX} rows and one region a row")
        if not all(0 <= row < rows for row in row_of):
            raise UsageError(f"topology {name}: a node is mapped to a row outside 0..{rows - 1}")
        self.name = name
        self.label = label
        self.log_rtt_sigma = log_rtt_sigma
        "Standard deviation of log RTT of a typical pair over time: default of `rules.Jitter`."
        self.row_of = tuple(row_of)
        filled = fill_missing(rtt_s) / 2
        if rows_are_hosts:
            np.fill_diagonal(filled, SAME_ROW_RTT_S / 2)
        self.one_way_s: list[list[float]] = filled.tolist()
        "[row][row], seconds."
        self._regions = tuple(regions)
        self._bandwidth = None if bandwidth_bps is None else tuple(bandwidth_bps)

    def __len__(self) -> int:
        return len(self.row_of)

    def delay_s(self, a: int, b: int) -> float:
        """One-way delay between two nodes."""
        row_of = self.row_of
        return self.one_way_s[row_of[a]][row_of[b]]

    def rtt_s(self, a: int, b: int) -> float:
        """Round trip a -> b -> a."""
        return self.delay_s(a, b) + self.delay_s(b, a)

    def region_of(self, node: int) -> str:
        """Region of a node."""
        return self._regions[self.row_of[node]]

    def bandwidth_bps(self, node: int) -> tuple[float, float]:
        """(up, down) access bandwidth, bit/s; infinite where the topology has none."""
        return (math.inf, math.inf) if self._bandwidth is None else self._bandwidth[node]

    @classmethod
    def named(cls, name: str, nodes: int, *, seed: int = 0, fallback: bool = False) -> Topology:
        """planetlab, seattle, simblock or synthetic; with `fallback`, synthetic when the data is missing."""
        TOPOLOGY.check(name)
        try:
            topology: Topology = TOPOLOGY.builtins[name](nodes, seed=seed)
            return topology
        except data.DataMissing:
            if not fallback:
                raise
            return cls.synthetic(nodes, seed=seed)

    @classmethod
    def planetlab(cls, nodes: int, *, seed: int = 0) -> Topology:
        """245 server-like hosts; median of 18 time slices, symmetric. No bandwidth (servers: not the bottleneck)."""
        rtt_s, sigma = _read_matrix("planetlab")
        rtt_s = np.where(np.isnan(rtt_s), rtt_s.T, rtt_s)
        return cls._measured("planetlab", rtt_s, sigma, nodes, seed, home=False)

    @classmethod
    def seattle(cls, nodes: int, *, seed: int = 0) -> Topology:
        """99 home devices; median of 200 time slices, asymmetric. Bandwidth drawn from country deciles."""
        rtt_s, sigma = _read_matrix("seattle")
        return cls._measured("seattle", rtt_s, sigma, nodes, seed, home=True)

    @classmethod
    def _measured(cls, name: str, rtt_s: np.ndarray, sigma: float, nodes: int, seed: int, *, home: bool) -> Topology:
        return cls(
            name=name, label="real", rtt_s=rtt_s, row_of=assign_rows(nodes, len(rtt_s), seed, name),
            regions=compute_zones(fill_missing(rtt_s), ZONES), log_rtt_sigma=sigma,
            bandwidth_bps=draw_bandwidth(nodes, seed) if home else None,
        )  # fmt: skip

    @classmethod
    def simblock(cls, nodes: int, *, seed: int = 0) -> Topology:
        """Six regions of SimBlock 2019: latency taken as RTT (the source does not say), nodes by its share of Bitcoin nodes."""
        latency, bandwidth = data.load("simblock-latency"), data.load("simblock-bandwidth")
        regions = list(bandwidth["region"])
        matrix = (
            latency.pivot(index="src", columns="dst", values="latency_ms").loc[regions, regions].to_numpy(np.float64)
        )
        shares = bandwidth["bitcoin_node_share"].to_numpy()
        rng = Substreams(seed).numpy("topology", "simblock")
        region_of = rng.choice(len(regions), nodes, p=shares / shares.sum())
        up, down = bandwidth["upload_mbps"].to_numpy() * 1e6, bandwidth["download_mbps"].to_numpy() * 1e6
        return cls(
            name="simblock", label="real", rtt_s=matrix / 1000, row_of=region_of.tolist(), regions=regions,
            bandwidth_bps=[(float(up[r]), float(down[r])) for r in region_of], rows_are_hosts=False,
        )  # fmt: skip

    @classmethod
    def synthetic(cls, nodes: int, *, seed: int = 0, rows: int = 256) -> Topology:
        """Places around six population centres; RTT = 31 ms + 17.4 ms per 1000 km (cities 2018). Label synthetic."""
        rows = min(rows, max(nodes, 1))
        rng = Substreams(seed).numpy("topology", "synthetic")
        shares = np.array([share for _, _, share in _CENTRES])
        centre = rng.choice(len(_CENTRES), rows, p=shares / shares.sum())
        place = np.array([(lat, lon) for lat, lon, _ in _CENTRES])[centre] + rng.normal(0, _SPREAD_DEGREES, (rows, 2))
        rtt_s = _CITY_RTT_S + _CITY_RTT_S_PER_KM * _great_circle_km(np.radians(place))
        return cls(
            name="synthetic", label="synthetic", rtt_s=rtt_s, row_of=assign_rows(nodes, rows, seed, "synthetic"),
            regions=[f"centre-{c}" for c in centre], bandwidth_bps=draw_bandwidth(nodes, seed),
        )  # fmt: skip

    @classmethod
    def from_graph(
        cls, graph: nx.Graph, nodes: int | None = None, *, weight: str = "delay_s", seed: int = 0
    ) -> Topology:
        """Shortest paths over edge attribute `weight` (one-way seconds); vertex attribute `region` if present."""
        vertices = list(graph)
        for a, b, attributes in graph.edges(data=True):
            if not attributes.get(weight, -1.0) >= 0:
                raise UsageError(f"edge {a!r}-{b!r} has no attribute {weight!r} of 0 or more seconds")
        rtt_s = np.full((len(vertices), len(vertices)), np.inf)
        position = {vertex: index for index, vertex in enumerate(vertices)}
        for vertex, lengths in nx.all_pairs_dijkstra_path_length(graph, weight=weight):
            for other, length in lengths.items():
                rtt_s[position[vertex], position[other]] = 2 * length
        count = len(vertices) if nodes is None else nodes
        row_of = list(range(count)) if nodes is None else assign_rows(count, len(vertices), seed, "graph")
        regions = [str(graph.nodes[vertex].get("region", vertex)) for vertex in vertices]
        return cls(name="graph", label="synthetic", rtt_s=rtt_s, row_of=row_of, regions=regions)


TOPOLOGY = PlugPoint(
    field="topology",
    builtins={
        "planetlab": Topology.planetlab, "seattle": Topology.seattle, "simblock": Topology.simblock,
        "synthetic": Topology.synthetic,
    },
    offers=("nodes", "seed"), kind=Topology,
)  # fmt: skip


def make_topology(plug: Plug, nodes: int, *, seed: int, fallback: bool = False) -> Topology:
    """A built-in's name (with `fallback` as in `Topology.named`), a `Topology`, or a plug that makes one; large enough."""
    if isinstance(plug, str) and ":" not in plug:
        return Topology.named(plug, nodes, seed=seed, fallback=fallback)
    topology: Topology = TOPOLOGY.make(plug, nodes, seed)
    if len(topology) < nodes:
        raise UsageError(f"topology {topology.name} has {len(topology)} nodes, and this scenario has {nodes}")
    return topology


def assign_rows(nodes: int, rows: int, seed: int, name: str) -> list[int]:
    """Row of each node: random permutations of all rows, one after another, so rows are used evenly."""
    if nodes < 1 or rows < 1:
        raise UsageError(f"topology {name}: {nodes} nodes on {rows} rows")
    rng = Substreams(seed).stream("topology", name, "rows")
    order: list[int] = []
    while len(order) < nodes:
        permutation = list(range(rows))
        rng.shuffle(permutation)
        order += permutation
    return order[:nodes]


def fill_missing(rtt_s: np.ndarray) -> np.ndarray:
    """A copy without nan: the reverse direction, else the mean of the row's and the column's medians."""
    filled = np.where(np.isnan(rtt_s), rtt_s.T, rtt_s)
    gaps = np.isnan(filled) & ~np.eye(len(filled), dtype=bool)
    if gaps.any():
        known = np.where(np.eye(len(filled), dtype=bool), np.nan, filled)
        overall = float(np.nanmedian(known)) if not np.isnan(known).all() else SAME_ROW_RTT_S
        medians = np.array([np.nanmedian(row) if not np.isnan(row).all() else overall for row in known])
        i, j = np.nonzero(gaps)
        filled[i, j] = (medians[i] + medians[j]) / 2
    np.fill_diagonal(filled, np.where(np.isnan(np.diag(filled)), SAME_ROW_RTT_S, np.diag(filled)))
    return filled


def compute_zones(rtt_s: np.ndarray, count: int) -> list[str]:
    """Region of each row: its nearest of `count` landmarks, each the row farthest from those before (starts at the centre)."""
    symmetric = (rtt_s + rtt_s.T) / 2
    landmarks = [int(np.argmin(np.median(symmetric, axis=1)))]
    while len(landmarks) < min(count, len(rtt_s)):
        landmarks.append(int(np.argmax(symmetric[:, landmarks].min(axis=1))))
    nearest = np.argmin(symmetric[:, landmarks], axis=1)
    nearest[landmarks] = np.arange(len(landmarks))
    return [f"zone-{zone}" for zone in nearest]


def draw_bandwidth(nodes: int, seed: int) -> list[tuple[float, float]]:
    """(up, down) bit/s per node: log-linear through the country deciles of 2020, one draw for both (they go together)."""
    levels = Substreams(seed).numpy("topology", "bandwidth").uniform(0.1, 0.9, nodes)
    up = np.exp(np.interp(levels, _DECILES, np.log(_UP_MBPS))) * 1e6
    down = np.exp(np.interp(levels, _DECILES, np.log(_DOWN_MBPS))) * 1e6
    return list(zip(up.tolist(), down.tolist(), strict=True))


def _read_matrix(name: str) -> tuple[np.ndarray, float]:
    """(median RTT in s, nan where missing; median over pairs of the standard deviation of log RTT)."""
    frame = data.load(name)
    slices = frame.filter(regex=r"^t\d+$").to_numpy(np.float64) / 1000
    slices[slices <= 0] = np.nan
    size = int(max(frame["i"].max(), frame["j"].max())) + 1
    rtt_s = np.full((size, size), np.nan)
    rtt_s[frame["i"], frame["j"]] = np.nanmedian(slices, axis=1)
    return rtt_s, float(np.median(np.nanstd(np.log(slices), axis=1)))


def _great_circle_km(radians: np.ndarray) -> np.ndarray:
    lat, lon = radians[:, 0], radians[:, 1]
    haversine = (
        np.sin((lat[:, None] - lat) / 2) ** 2
        + np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
    )
    distance: np.ndarray = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(haversine, 0, 1)))
    return distance
