"""Figures of a set of rows, in the house style: units on the axes, a legend by group, and below, what was simulated and what a band is."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from quiver.errors import UsageError
from sim import intervals

RC: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "legend.frameon": False, "figure.dpi": 110, "savefig.dpi": 130, "lines.linewidth": 1.6,
}  # fmt: skip
# Okabe & Ito 2008: told apart with any colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8B6914", "#666666")
POLICIES = ("random", "round-robin", "least-loaded", "power-of-two", "peak-ewma", "prequal", "weighted")
OUTCOMES = ("completed", "rejected", "failed", "cancelled", "unfinished")
# (what a column's name ends with, what it is called, its unit).
_UNITS = (("_s", "seconds"), ("_credits", "credits"), ("_tokens", "tokens"))
_NAMES = {
    "ttft_s": "time to first token", "tpot_s": "time per output token", "e2e_s": "end-to-end latency",
    "queue_s": "wait at the provider, self-reported",
}  # fmt: skip
CAPTION_COLUMNS = 110
# Beyond so many groups lines can't be told apart.
GROUPS_MAX = 12
FEW_DECADES = 300.0
LEVELS = np.linspace(0.0, 1.0, 401)


def label(column: str) -> str:
    """A column's name with its unit."""
    for ending, unit in _UNITS:
        if column.endswith(ending):
            return f"{_NAMES.get(column, column.removesuffix(ending).replace('_', ' '))} ({unit})"
    return column.replace("_", " ")


def colour_policy(name: str) -> str | None:
    """The same in every figure; the oracle is black; None for policies of other people, which take what is left."""
    if name == "oracle":
        return "#000000"
    return COLOURS[POLICIES.index(name)] if name in POLICIES else None


def assign_colours(names: Sequence[Any], by: str) -> dict[Any, str]:
    """Colour of each line; no two alike while there are enough."""
    fixed = {name: colour_policy(str(name)) for name in names} if by == "policy" else {}
    taken = {colour for colour in fixed.values() if colour}
    free = itertools.cycle([colour for colour in COLOURS if colour not in taken] or COLOURS)
    return {name: fixed.get(name) or next(free) for name in names}


def describe_runs(summaries: Sequence[dict[str, Any]]) -> str:
    """What every figure says about itself: simulated, on which data, at which fidelity, how often."""
    seeds = len({summary["seed"] for summary in summaries})
    data = " and ".join(sorted({summary["data"] for summary in summaries}))
    fidelity = {name: {str(summary["fidelity"][name]) for summary in summaries} for name in summaries[0]["fidelity"]}
    told = ", ".join(f"{name} {' and '.join(sorted(values))}" for name, values in fidelity.items())
    return f"Simulated; {data} data; {told}; {seeds} seed{'s' if seeds > 1 else ''}."


class Plotter:
    """Figures of requests; `note` says where they come from, `swept` which columns tell the scenarios apart."""

    def __init__(self, requests: pd.DataFrame, *, note: str = "Simulated.", swept: Sequence[str] = ()) -> None:
        self._rows = requests
        self._completed = requests[requests["outcome"] == "completed"]
        self._note = note
        self._swept = tuple(swept)

    def cdf(self, column: str, *, by: str = "policy", log: bool = True) -> Figure:
        """Cumulative distribution of completed requests, one line a group: mean over seeds, band from the lowest to the highest."""
        figure, axes = self._start(by, column)
        several = False
        for name, group, colour, dash in self._groups(by):
            per_seed = [rows[column].dropna().to_numpy() for _, rows in group.groupby("seed")]
            curves = np.array([np.quantile(values, LEVELS) for values in per_seed if len(values)])
            if not len(curves):
                continue
            axes.plot(curves.mean(axis=0), LEVELS, label=str(name), color=colour, linestyle=dash)
            if len(curves) > 1:
                several = True
                axes.fill_betweenx(LEVELS, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, lw=0)
        if log:
            _log_axis(axes, "x")
        axes.set(xlabel=label(column), ylabel="share of completed requests", ylim=(0, 1))
        band = "Lines are means over seeds, bands reach from the lowest to the highest seed. " if several else ""
        return self._finish(
            figure, axes, (by,), f"{len(self._completed):,} completed of {len(self._rows):,} requests. {band}"
        )

    def bands(self, column: str, *, x: str, q: float = 0.99, by: str = "policy", log: bool = True) -> Figure:
        """A quantile of completed requests over something that was swept, with 95 % bands over seeds."""
        figure, axes = self._start(by, column, x)
        table = intervals.summarise(self._completed, column, [q], [by, x])
        # An interval of few seeds may reach below zero, where no latency is and a logarithm has no place.
        lowest = float(table["estimate"].min()) / 4
        cut = log and lowest > 0 and bool((table["low"] < lowest).any())
        for name, _, colour, dash in self._groups(by):
            rows = table[table[by] == name]
            low = rows["low"].clip(lower=lowest) if cut else rows["low"]
            axes.plot(
                rows[x], rows["estimate"], color=colour, linestyle=dash, marker="o", markersize=3, label=str(name)
            )
            axes.fill_between(rows[x], low, rows["high"], color=colour, alpha=0.12, lw=0)
        if log:
            _log_axis(axes, "y")
        axes.set(xlabel=label(x), ylabel=f"p{100 * q:g} of {label(column)}")
        told = "Completed requests only; lines are means over seeds, bands 95 % t-intervals" + (
            ", cut at the lower edge. " if cut else ". "
        )
        return self._finish(figure, axes, (by, x), told)

    def outcomes(self, *, by: str = "policy") -> Figure:
        """Share of requests by how they ended, one bar a group."""
        figure, axes = self._start(by)
        shares = self._rows.groupby(by, sort=True)["outcome"].value_counts(normalize=True).unstack(fill_value=0)
        shares = shares.reindex(columns=[outcome for outcome in OUTCOMES if outcome in shares])
        left = np.zeros(len(shares))
        for outcome in shares:
            colour = COLOURS[OUTCOMES.index(str(outcome))]
            axes.barh(
                [str(name) for name in shares.index], shares[outcome], left=left, color=colour, label=str(outcome)
            )
            left += shares[outcome].to_numpy()
        for place, share in enumerate(shares.get("completed", np.zeros(len(shares)))):
            axes.text(
                0.01,
                place,
                f"{share:.1%} completed",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 2},
            )
        axes.set(xlabel="share of requests", ylabel=by.replace("_", " "), xlim=(0, 1))
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        return self._finish(figure, axes, (by,), f"{len(self._rows):,} requests. ", legend="how it ended")

    def over_time(self, column: str = "ttft_s", *, by: str = "policy", bins: int = 30) -> Figure:
        """Median and p95 of completed requests by when they arrived: shows warm-up, bursts and drift."""
        figure, axes = self._start(by, column)
        edges = np.linspace(0.0, float(self._rows["arrived_s"].max()) or 1.0, bins + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        for name, group, colour, _ in self._groups(by):
            bin_of = np.clip(np.searchsorted(edges, group["arrived_s"], side="right") - 1, 0, bins - 1)
            binned = group[column].groupby(bin_of).quantile([0.5, 0.95]).unstack().reindex(range(bins))
            axes.plot(middles, binned[0.5], color=colour, label=str(name))
            axes.plot(middles, binned[0.95], color=colour, linestyle=":", linewidth=1.2)
        _log_axis(axes, "y")
        axes.set(xlabel="arrival (seconds)", ylabel=label(column))
        width_s = edges[1] - edges[0]
        return self._finish(
            figure, axes, (by,), f"Solid: median, dotted: p95, of requests that arrived within {width_s:.3g} s. "
        )

    def _groups(self, by: str) -> list[tuple[Any, pd.DataFrame, str, str]]:
        """(name, its completed requests, colour, line style), in order."""
        groups = list(self._completed.groupby(by, sort=True))
        colours = assign_colours([name for name, _ in groups], by)
        return [
            (name, group, colours[name], "-" if number < len(COLOURS) else "--")
            for number, (name, group) in enumerate(groups)
        ]

    def _find_mixed(self, keys: Sequence[str]) -> list[str]:
        """What was swept, is not told apart by `keys`, and differs within a group."""
        groups = self._rows.groupby(list(keys))
        return [name for name in self._swept if name not in keys and groups[name].nunique(dropna=False).max() > 1]

    def _start(self, by: str, *columns: str) -> tuple[Figure, Axes]:
        for name in (by, *columns):
            if name not in self._rows:
                raise UsageError(f"no column {name!r} to plot; there are: {', '.join(self._rows.columns)}")
        if self._completed.empty and columns:
            raise UsageError("no request was completed: there is nothing to plot; see `plot.outcomes`")
        if (count := self._rows[by].nunique()) > GROUPS_MAX:
            raise UsageError(f"by={by!r} gives {count} lines, at most {GROUPS_MAX} can be told apart")
        with plt.rc_context(RC):
            figure, axes = plt.subplots(figsize=(6.8, 4.4), layout="constrained")
        # A notebook shows what a cell returns; an open figure would be shown twice.
        plt.close(figure)
        return figure, axes

    def _finish(
        self, figure: Figure, axes: Axes, keys: Sequence[str], told: str, *, legend: str | None = None
    ) -> Figure:
        mixed = self._find_mixed(keys)
        if mixed:
            told += f"Each mixes runs that differ in {', '.join(mixed)}. "
        # Beside the axes: inside, it covers lines of some data or other.
        axes.legend(
            title=(legend or keys[0]).replace("_", " "), loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False
        )
        caption = "\n".join(textwrap.wrap(told + self._note, CAPTION_COLUMNS))
        figure.supxlabel(caption, fontsize=7.5, x=0.01, ha="left", color="#444444")
        return figure


def _log_axis(axes: Axes, which: str) -> None:
    """Logarithmic where all values are positive."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if axis.get_data_interval()[0] > 0:
        axes.set(**{f"{which}scale": "log"})
        number_log_axis(axis)


def number_log_axis(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis; at 2 and 5 too where decades are few."""
    low, high = axis.get_view_interval()
    shown = "25" if high / low < FEW_DECADES else ""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in shown else ""))
