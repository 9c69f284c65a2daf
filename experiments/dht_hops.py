"""How many hops a lookup takes in networks of 100 to 100,000 nodes, against what Kademlia's tables promise."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import msgspec
import pandas as pd
from matplotlib.figure import Figure

from experiments import dht_rows, style
from quiver.params import Params
from sim.kademlia import run_kademlia

NAME = "dht_hops"
QUESTION = "Do hops grow like log n, as Kademlia's tables promise?"
# Nodes -> seeds.
SIZES = {
    "quick": {50: 2, 200: 2},
    "default": {100: 5, 1_000: 5, 10_000: 2},
    "long": {100: 5, 1_000: 5, 10_000: 3, 100_000: 1},
}
LOOKUPS_MAX = 10_000
# A network of 100,000 joins as quickly as one of 10,000.
JOIN_S = 500.0


def measure(scale: str) -> list[dict[str, Any]]:
    """One row a run."""
    rows = []
    for nodes, seeds in SIZES[scale].items():
        for seed in range(1, seeds + 1):
            result = run_kademlia(
                nodes, min(nodes, LOOKUPS_MAX), seed=seed, cpu_clock=time.process_time,
                join_interval_s=min(0.05, JOIN_S / nodes),
            )  # fmt: skip
            rows.append({"seed": seed, **msgspec.structs.asdict(result)})
    return rows


def compute_bits_per_hop(k: int) -> float:
    """Bits of the target's id that one hop adds.

    Whom we ask shares `p` bits with the target and names the nearest of k peers that share at least one bit more. The
    distance of the nearest of k uniform ids is 2^-(log2 k + gamma / ln 2) of that subtree, in the geometric mean.
    """
    return 1 + math.log2(k) + 0.5772156649 / math.log(2)


def theory(nodes: pd.Series, first: float) -> list[float]:
    """Mean hops, from the smallest network's measured `first` on."""
    bits = compute_bits_per_hop(Params.default().k)
    return [first + math.log2(count / nodes.min()) / bits for count in nodes]


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Over the seeds of each size: the mean with its range, and the largest 95th percentile."""
    return frame.groupby("nodes", as_index=False).agg(
        mean=("hops_mean", "mean"), low=("hops_mean", "min"), high=("hops_mean", "max"), p95=("hops_p95", "max"),
        found=("found", "sum"), lookups=("lookups", "sum"), seeds=("seed", "nunique"),
    )  # fmt: skip


def find(frame: pd.DataFrame) -> str:
    """The finding in words, computed from the rows."""
    table = summarise(frame)
    slope = (table["mean"].iloc[-1] - table["mean"].iloc[0]) / math.log2(
        table["nodes"].iloc[-1] / table["nodes"].iloc[0]
    )
    hops = ", ".join(
        f"{row.mean_:.2f} (p95 {row.p95:g}) at {row.nodes:,}"
        for row in table.rename(columns={"mean": "mean_"}).itertuples()
    )
    found = table["found"].sum() / table["lookups"].sum()
    return (
        f"Mean hops: {hops} nodes. Each doubling of the network adds {slope:.2f} hops; "
        f"theory says {1 / compute_bits_per_hop(Params.default().k):.2f}. {found:.2%} of lookups found their target. "
        f"Runs with different seeds, in order of size: {', '.join(map(str, table['seeds']))}."
    )


def figure(frame: pd.DataFrame) -> Figure:
    """Mean and 95th percentile over the size."""
    table = summarise(frame)
    drawing, axes = style.subplots(1, 1, figsize=(11, 4))
    axes.plot(table["nodes"], table["mean"], marker="o", label="mean")
    axes.fill_between(table["nodes"], table["low"], table["high"], alpha=0.3, linewidth=0)
    axes.plot(table["nodes"], table["p95"], marker="s", linestyle=":", label="95th percentile")
    axes.plot(table["nodes"], theory(table["nodes"], table["mean"].iloc[0]), linestyle="--", label="theory, mean")
    axes.set(xscale="log", xlabel="nodes", ylabel="hops to the target", ylim=(0, None))
    axes.legend(loc="lower right")
    return drawing


if __name__ == "__main__":
    dht_rows.main(sys.modules[__name__])
