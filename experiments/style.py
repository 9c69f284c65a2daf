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

from sim.plot import COLOURS, RC, colour_policy, number_log_axis

CAPTION_COLUMNS = 150


def colour(policy: str) -> str:
    """The same in every figure; policies of other people take what is left."""
    return colour_policy(policy) or COLOURS[-1]


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
        # A thin edge tells bands that lie over each other apart.
        axes.fill_between(rows[x], rows["low"], rows["high"], facecolor=colour(name), alpha=0.08, linewidth=0)
        for edge in ("low", "high"):
            axes.plot(rows[x], rows[edge], color=colour(name), alpha=0.35, linewidth=0.6)


def save(figure: Figure, path: Path, *, caption: str) -> Path:
    """PNG with its caption below, and the caption as text beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.get_scale() == "log"):
        number_log_axis(axis)
    with plt.rc_context(RC):
        figure.supxlabel("\n".join(textwrap.wrap(caption, CAPTION_COLUMNS)), fontsize=8, x=0.01, ha="left")
        figure.savefig(path)
    path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    return path
