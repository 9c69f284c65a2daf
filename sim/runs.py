"""Results of a sweep: one tidy frame, summaries with bands over seeds, comparisons paired by seed, figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from quiver.errors import UsageError
from quiver.params import Params
from sim import intervals, table
from sim.fingerprint import describe_plug
from sim.plot import Plotter, describe_runs
from sim.plug import plug_name
from sim.result import Result
from sim.scenario import Scenario

_PLAIN = (bool, int, float, str, type(None))


def find_axes(scenarios: Sequence[Scenario]) -> dict[str, list[Any]]:
    """Fields in which scenarios differ -> the label of each scenario, in order; different plugs never share a label."""
    names = [field.name for field in dataclasses.fields(Scenario) if field.name not in ("name", "params")]
    columns = {name: [getattr(scenario, name) for scenario in scenarios] for name in names}
    columns |= {name: [getattr(s.params, name) for s in scenarios] for name in Params.__struct_fields__}
    axes = {name: _label(values) for name, values in columns.items()}
    return {name: labels for name, labels in axes.items() if len(set(labels)) > 1}


def _label(values: Sequence[Any]) -> list[Any]:
    if all(isinstance(value, _PLAIN) and not (isinstance(value, str) and ":" in value) for value in values):
        return list(values)
    known: dict[str, dict[str, str]] = {}
    labels = []
    for value in values:
        name = ", ".join(map(plug_name, value)) if type(value) is tuple else plug_name(value)
        versions = known.setdefault(name, {})
        number = len(versions) + 1
        labels.append(versions.setdefault(_identify(value), name if number == 1 else f"{name} #{number}"))
    return labels


def _identify(value: Any) -> str:
    checksum = getattr(value, "checksum", None)
    return str(checksum()) if callable(checksum) else describe_plug(value)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Results of a sweep; `scenarios[i]` gave `results[i]`."""

    scenarios: Sequence[Scenario]
    results: Sequence[Result]

    @cached_property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """What differs between the runs (besides the seed) -> its value in each run."""
        return find_axes(self.scenarios)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One tidy frame of all runs: the columns of docs/metrics.md, then `load`, `scenario_hash` and what was swept."""
        frames = []
        for number, (scenario, result) in enumerate(zip(self.scenarios, self.results, strict=True)):
            swept = {name: labels[number] for name, labels in self.axes.items()}
            told = {"load": scenario.load, "scenario_hash": result.summary["scenario_hash"], **swept}
            frames.append(result.requests.assign(**told))
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def summaries(self) -> pd.DataFrame:
        """One row a run: the summary, with quantiles as columns like `ttft_s_p99`, and what was swept."""
        rows = []
        for number, (scenario, result) in enumerate(zip(self.scenarios, self.results, strict=True)):
            row: dict[str, Any] = {"load": scenario.load}
            for key, value in result.summary.items():
                inner = value.items() if isinstance(value, dict) else ()
                row |= {f"{key}_{name}": part for name, part in inner} if inner else {key: value}
            rows.append(row | {name: labels[number] for name, labels in self.axes.items()})
        return pd.DataFrame(rows)

    @property
    def _warm(self) -> pd.DataFrame:
        """Requests after the longest warm-up, which all runs are compared from."""
        return self.requests[self.requests["arrived_s"] >= max(s.warmup_s for s in self.scenarios)]

    def summary(
        self, column: str, *, q: float | Sequence[float] = 0.5, by: str | Sequence[str] = "policy"
    ) -> pd.DataFrame:
        """Estimate, low, high (95 %, over seeds) and n_seeds of a quantile of completed requests."""
        keys = [by] if isinstance(by, str) else list(by)
        intervals.check_columns(self.requests, column, *keys)
        missing = self._find_missing(keys)
        if missing:
            raise UsageError(
                f"by={keys} would mix runs that differ in {', '.join(missing)}: say by={[*keys, *missing]}"
            )
        return intervals.summarise(self._warm, column, [q] if isinstance(q, (int, float)) else q, keys)

    def compare(self, column: str, *, q: float = 0.5, by: str = "policy", baseline: Any) -> pd.DataFrame:
        """Difference to the baseline, paired by seed: estimate, low, high (95 %) and n_seeds.

        If the runs also differ in something else (a load, say), there is a row for each of its values.
        """
        intervals.check_columns(self.requests, column, by)
        name = baseline if isinstance(baseline, _PLAIN) else plug_name(baseline)
        return intervals.compare(self._warm, column, q, by, name, self._find_missing([by]))

    def _find_missing(self, keys: Sequence[str]) -> list[str]:
        """Axes that must join `keys` until each group holds one scenario only."""
        missing: list[str] = []
        for axis in self.axes:
            wanted = [key for key in (*keys, *missing) if key in self.requests]
            mixed = self.requests.groupby(wanted)["scenario_hash"].nunique().max() > 1 if wanted else True
            if mixed and axis not in wanted:
                missing.append(axis)
        return missing

    @property
    def plot(self) -> Plotter:
        """Figures: `runs.plot.cdf("ttft_s", by="policy")`."""
        return Plotter(
            self._warm, note=describe_runs([result.summary for result in self.results]), swept=list(self.axes)
        )

    def _repr_html_(self) -> str:
        columns = ["policy", *(axis for axis in self.axes if axis != "policy")]
        rows = []
        for key, group in self.summaries.groupby(columns, sort=True, dropna=False):
            counts = f"{group['completed'].sum():,} of {group['requests'].sum():,}"
            tails = [table.show_seconds(group[f"ttft_s_{p}"].mean()) for p in ("p50", "p99")]
            rows.append([*(key if isinstance(key, tuple) else (key,)), len(group), counts, *tails])
        seeds = len({result.summary["seed"] for result in self.results})
        return table.make_table(
            [*columns, "runs", "completed", "TTFT p50", "TTFT p99"], rows,
            caption=f"{len(self.results)} simulated runs, {seeds} seeds; TTFT is the mean over runs",
        )  # fmt: skip
