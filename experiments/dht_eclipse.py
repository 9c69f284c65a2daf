"""How many liars around a key it takes to hide its provider, with disjoint paths and with limits by address group."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pandas as pd
from matplotlib.figure import Figure

from experiments import dht_rows, style
from sim.kademlia_eclipse import run_eclipse

NAME = "dht_eclipse"
QUESTION = "How many liars next to a key hide its provider from honest nodes?"
# Honest nodes, lookups, seeds, liars.
SCALES = {
    "quick": (60, 10, 1, (0, 20, 40)),
    "default": (300, 50, 2, (0, 19, 20, 39, 40, 79, 80, 160)),
    "long": (2000, 200, 5, (0, 10, 15, 19, 20, 25, 30, 40, 50, 60, 80, 100, 120, 160)),
}
# (address groups of the liars, 0 without addresses; disjoint paths).
DEFENCES = {
    "1 path": (0, 1),
    "2 paths": (0, 2),
    "4 paths": (0, 4),
    "8 paths": (0, 8),
    "1 path, liars in 4 address groups": (4, 1),
    "1 path, liars in 20 address groups": (20, 1),
}


def measure(scale: str) -> list[dict[str, Any]]:
    """One row a run."""
    nodes, lookups, seeds, crowds = SCALES[scale]
    return [
        {"defence": name, "seed": seed, **msgspec.structs.asdict(run_eclipse(
            nodes, liars, groups=groups, disjoint_paths=paths, lookups=lookups, seed=seed
        ))}
        for name, (groups, paths) in DEFENCES.items() for liars in crowds for seed in range(1, seeds + 1)
    ]  # fmt: skip


def find(frame: pd.DataFrame) -> str:
    """The finding in words, computed from the rows."""
    parts = []
    for name in DEFENCES:
        rows = frame[frame["defence"] == name]
        shares = rows.groupby("liars")["found"].mean()
        lost = shares[shares < 0.5]
        cost = rows[rows["liars"] == 0]["questions_mean"].mean()
        bound = f"hidden by {lost.index[0]} liars" if len(lost) else f"never hidden (up to {shares.index[-1]} liars)"
        parts.append(f"{name}: {bound}, {cost:.0f} questions a lookup without liars")
    nodes, seeds = frame["nodes"].iloc[0], frame["seed"].nunique()
    return (
        f"{'; '.join(parts)}. {nodes} honest nodes, {seeds} seeds; each liar is nearer to the key than any honest node."
    )


def figure(frame: pd.DataFrame) -> Figure:
    """Share of honest lookups that find the provider, and what they cost, over the number of liars."""
    drawing, axes = style.subplots(1, 2, figsize=(11, 4))
    for name, width in zip(DEFENCES, (7, 5.5, 4, 2.5, 1.5, 1), strict=True):
        means = frame[frame["defence"] == name].groupby("liars")[["found", "questions_mean"]].mean()
        dashes = "--" if "groups" in name else "-"
        # Lines that lie over each other: those drawn first are the wider ones.
        look = {"marker": "o", "markersize": 3, "linewidth": width, "label": name}
        axes[0].plot(means.index, means["found"], dashes, **look)
        axes[1].plot(means.index, means["questions_mean"], dashes, **look)
    axes[0].set(xlabel="liars", ylabel="lookups that find the provider (share)", ylim=(-0.02, 1.02))
    axes[1].set(xlabel="liars", ylabel="questions a lookup", ylim=(0, None))
    axes[1].legend(fontsize=7)
    return drawing


if __name__ == "__main__":
    dht_rows.main(sys.modules[__name__])
