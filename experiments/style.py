"""House plot style: one colour a policy in every figure, units on the axes, the finding under the figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RC = {
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "legend.frameon": False, "figure.dpi": 110, "savefig.dpi": 130, "lines.linewidth": 1.6,
}  # fmt: skip
# Okabe & Ito 2008: told apart with any colour vision.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8B6914", "#666666")
_KNOWN = ("random", "round-robin", "least-loaded", "power-of-two", "peak-ewma", "prequal", "weighted")
CAPTION_COLUMNS = 150


def colour(policy: str) -> str:
    """The same in every figure; the oracle is black, policies of other people take what is left."""
    if policy == "oracle":
        return "#000000"
    return _COLOURS[_KNOWN.index(policy)] if policy in _KNOWN else _COLOURS[-1]


def subplots(rows: int, columns: int, **options: Any) -> tuple[Figure, Any]:
    """A figure in the house style."""
    with plt.rc_context(RC):
        figure, axes = plt.subplots(rows, columns, constrained_layout=True, **options)
    plt.close(figure)
    return figure, axes


def draw_bands(axes: Axes, table: pd.DataFrame, *, x: str, by: str, order: Sequence[str]) -> None:
    """Lines of `estimate` over `x`, with bands from `low` to `high`."""
    for name in order:
        rows = table[table[by] == name].sort_values(x)
        style = "--" if name == "oracle" else "-"
        axes.plot(rows[x], rows["estimate"], style, color=colour(name), label=name, marker="o", markersize=3)
        axes.fill_between(rows[x], rows["low"], rows["high"], color=colour(name), alpha=0.15, linewidth=0)


def save(figure: Figure, path: Path, *, caption: str) -> Path:
    """PNG with its caption below, and the caption as text beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(RC):
        figure.supxlabel("\n".join(textwrap.wrap(caption, CAPTION_COLUMNS)), fontsize=8, x=0.01, ha="left")
        figure.savefig(path)
    path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    return path
