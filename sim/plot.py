"""Figures of a set of rows: units on the axes, what was simulated in the caption."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

UNITS = {"_s": "seconds", "_credits": "credits", "_tokens": "tokens"}


def label(column: str) -> str:
    """A column's name with its unit."""
    unit = next((unit for ending, unit in UNITS.items() if column.endswith(ending)), None)
    return column if unit is None else f"{column} ({unit})"


class Plotter:
    """Plots of completed requests."""

    def __init__(self, requests: pd.DataFrame) -> None:
        self._rows = requests[requests["outcome"] == "completed"]

    def cdf(self, column: str, *, by: str = "policy", log: bool = True) -> Figure:
        """Cumulative distribution, one line a group; the band spans the seeds."""
        figure, axes = plt.subplots(figsize=(6.4, 4.0), constrained_layout=True)
        levels = np.linspace(0.0, 1.0, 200)
        for name, group in self._rows.groupby(by, sort=True):
            curves = np.array([np.quantile(rows[column].dropna(), levels) for _, rows in group.groupby("seed")])
            (line,) = axes.plot(curves.mean(axis=0), levels, label=str(name))
            if len(curves) > 1:
                axes.fill_betweenx(levels, curves.min(axis=0), curves.max(axis=0), color=line.get_color(), alpha=0.2)
        if log:
            axes.set_xscale("log")
        axes.set_xlabel(label(column))
        axes.set_ylabel("share of completed requests")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        axes.legend(title=by)
        seeds = self._rows["seed"].nunique()
        axes.set_title(f"simulated, {len(self._rows):,} requests, {seeds} seed{'s' if seeds > 1 else ''}", fontsize=9)
        plt.close(figure)
        return figure
