"""Rows of a benchmark run, their intervals and verdicts, and the report that shows misses first.

Rules of this file: no measuring, no clock; what a machine says is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["yes", "missed", "FAIL", "-"]

# Student's t, two-sided 95 %, by degrees of freedom; beyond 30 the next smaller tabulated value is used (wider, never narrower).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_ORDER: dict[Verdict, int] = {"FAIL": 0, "missed": 1, "yes": 2, "-": 3}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a ratio should reach. `floor` is the worst that passes; by default half as good as the goal."""

    value: float
    floor: float | None = None
    at_most: bool = False
    "The ratio is a cost: smaller is better."

    @property
    def worst(self) -> float:
        """The floor, given or derived."""
        if self.floor is not None:
            return self.floor
        return self.value * 2 if self.at_most else self.value / 2

    def judge(self, ratio: float) -> Verdict:
        """Of a ratio's mean."""
        sign = -1.0 if self.at_most else 1.0
        if sign * ratio >= sign * self.value:
            return "yes"
        return "missed" if sign * ratio >= sign * self.worst else "FAIL"

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:g} (floor {self.worst:g})"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured line."""

    name: str
    ours: str
    "Our mean with its unit."
    peer: str
    "The peer's name, version and mean; `-` when the row is held against a limit."
    limit: str
    "The limit that a ratio of 1 means; `-` when the row is held against a peer."
    ratios: tuple[float, ...]
    "One for each repetition."
    goal: Goal | None
    "None for a figure that is shown and not judged."
    command: str

    @property
    def ratio(self) -> float:
        """The mean."""
        return sum(self.ratios) / len(self.ratios)

    @property
    def met(self) -> Verdict:
        """Verdict on the mean ratio; `-` without a goal."""
        return "-" if self.goal is None else self.goal.judge(self.ratio)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and when a run took place."""

    commit: str
    cpu: str
    cores: int
    python: str
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]


def compute_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    half = _T95[min(n - 1, len(_T95)) - 1] * math.sqrt(variance / n)
    return mean - half, mean + half


def order_rows(rows: Sequence[Row]) -> list[Row]:
    """Failures, then misses, then what was met, then what has no goal; in the order they were measured within each."""
    return sorted(rows, key=lambda row: _ORDER[row.met])


def make_report(rows: Sequence[Row], machine: Machine) -> str:
    """Markdown: the machine on top, then one table, misses first."""
    ordered = order_rows(rows)
    missed = sum(row.met in ("missed", "FAIL") for row in ordered)
    lines = [
        "# Benchmark report",
        "",
        f"* Commit: {machine.commit}",
        f"* CPU: {machine.cpu}, {machine.cores} cores",
        f"* Python: {machine.python}",
        f"* Load average before: {_load(machine.load_before)}; after: {_load(machine.load_after)}",
        "",
        f"{missed} of {len(ordered)} rows miss their goal.",
        "",
        "All figures but rates are CPU time, ours and the peer's measured in turn within one run. A ratio is ours over the peer or",
        "the limit. `met`: yes; missed, between floor and goal; FAIL, below the floor; - without a goal. Caches and the clock of a machine",
        "that does other work too still move CPU time: compare the load average with the number of cores.",
        "",
        "| row | ours | peer (version) | limit | ratio | 95 % interval | n | goal | met | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, ordered)]) + "\n"


def _line(row: Row) -> str:
    interval = compute_interval(row.ratios)
    shown = "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
    cells = (
        row.name, row.ours, row.peer, row.limit, f"{row.ratio:.3g}", shown, str(len(row.ratios)), str(row.goal or "-"), row.met,
        f"`{row.command}`",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _load(load: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.2f}" for value in load)
