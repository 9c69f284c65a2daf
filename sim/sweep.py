"""Many runs: scenarios x seeds, on all cores, with progress; then statistics over seeds, paired where they can be.

Bands are over replications (seeds), never over the requests of one run.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from quiver.errors import UsageError
from sim.plot import Plotter
from sim.result import Result, hash_code
from sim.scenario import Scenario, plug_name
from sim.source import describe_source, remember

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal's 1.96.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
        2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


def compute_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % t-interval of the mean over replications; low and high are NaN for one value."""
    array = np.asarray([value for value in values if value is not None and not np.isnan(value)], dtype=float)
    if not len(array):
        return float("nan"), float("nan"), float("nan")
    mean = float(array.mean())
    if len(array) == 1:
        return mean, float("nan"), float("nan")
    t = _T95[len(array) - 2] if len(array) <= 31 else 1.96
    half = t * float(array.std(ddof=1)) / len(array) ** 0.5
    return mean, mean - half, mean + half


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Scenarios x seeds."""

    scenarios: Sequence[Scenario]
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.scenarios) * len(self.seeds)

    def run(self, *, processes: int | None = None, progress: bool = True, directory: Path | str | None = None) -> Runs:
        """All runs; `processes` defaults to the cores of this machine, 1 runs them here.

        With a `directory` each run is saved there under its run_id, and what is there already (of the same scenario, seed
        and code) is not run again.
        """
        jobs = [(scenario, seed) for scenario in self.scenarios for seed in self.seeds]
        stored = [None if directory is None else Path(directory) / f"{s.hash()}-{seed}" for s, seed in jobs]
        results = {number: result for number, path in enumerate(stored) if (result := _reuse(path)) is not None}
        missing = {number: job for number, job in enumerate(jobs) if number not in results}
        with tqdm(total=len(jobs), initial=len(results), unit="run", disable=not progress) as bar:
            for number, result in _run_all(missing, processes or os.cpu_count() or 1):
                if (path := stored[number]) is not None:
                    result.save(path)
                results[number] = result
                bar.update(1)
        return Runs(scenarios=[job[0] for job in jobs], results=[results[number] for number in range(len(jobs))])


def _reuse(path: Path | None) -> Result | None:
    """A stored run, if this very code wrote it."""
    if path is None or not (path / "manifest.json").exists():
        return None
    result = Result.load(path)
    return result if result.manifest["code"] == hash_code() else None


def _run_all(jobs: dict[int, tuple[Scenario, int]], processes: int) -> Iterator[tuple[int, Result]]:
    """(number, result) as they finish."""
    if min(processes, len(jobs)) <= 1:
        for number, (scenario, seed) in jobs.items():
            yield number, _run_one(scenario, seed)
        return
    # spawn: a forked child would share the parent's threads and event loops. No max_tasks_per_child: it can hang (cpython 115634).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(_run_pickled, _pickle(*job)): number for number, job in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], pickle.loads(future.result())


def _run_one(scenario: Scenario, seed: int) -> Result:
    from sim.world import World

    return World(scenario, seed).run(progress=False)


def _pickle(scenario: Scenario, seed: int) -> bytes:
    """A class of a notebook travels by value; its source goes along, because the scenario's hash covers it."""
    source = None if isinstance(scenario.policy, str) else describe_source(scenario.policy)
    return cloudpickle.dumps((scenario, seed, source))


def _run_pickled(job: bytes) -> bytes:
    scenario, seed, source = pickle.loads(job)
    if source is not None:
        remember(scenario.policy, source)
    result = cloudpickle.dumps(_run_one(scenario, seed))
    # A finished world is full of cycles; the next one should not pay for its memory.
    gc.collect()
    return result


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Results of a sweep."""

    scenarios: Sequence[Scenario]
    results: Sequence[Result]

    @property
    def requests(self) -> pd.DataFrame:
        """One tidy frame of all runs; `load` and `scenario_hash` say which."""
        return pd.concat(
            [
                result.requests.assign(load=scenario.load, scenario_hash=result.summary["scenario_hash"])
                for scenario, result in zip(self.scenarios, self.results, strict=True)
            ],
            ignore_index=True,
        )

    @property
    def summaries(self) -> pd.DataFrame:
        """One row a run: the summary, with quantiles as columns like `ttft_s_p99`."""
        rows = []
        for scenario, result in zip(self.scenarios, self.results, strict=True):
            row: dict[str, Any] = {"load": scenario.load}
            for key, value in result.summary.items():
                row |= (
                    {f"{key}_{name}": inner for name, inner in value.items()}
                    if isinstance(value, dict)
                    else {key: value}
                )
            rows.append(row)
        return pd.DataFrame(rows)

    def _per_seed(self, column: str, q: float, by: Sequence[str]) -> pd.Series:
        frame = self.requests
        warm = {s.warmup_s for s in self.scenarios}
        frame = frame[(frame["outcome"] == "completed") & (frame["arrived_s"] >= max(warm))]
        if column not in frame:
            raise UsageError(f"no column {column!r}; see docs/metrics.md")
        return frame.groupby([*by, "seed"], sort=True)[column].quantile(q)

    def summary(
        self, column: str, *, q: float | Sequence[float] = 0.5, by: str | Sequence[str] = "policy"
    ) -> pd.DataFrame:
        """Estimate, low, high (95 %, over seeds) and n_seeds of a quantile of completed requests."""
        keys = [by] if isinstance(by, str) else list(by)
        rows = []
        for quantile in [q] if isinstance(q, float) else q:
            for key, values in self._per_seed(column, quantile, keys).groupby(level=keys, sort=True):
                estimate, low, high = compute_interval(values.tolist())
                named = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
                rows.append(
                    named | {"q": quantile, "estimate": estimate, "low": low, "high": high, "n_seeds": len(values)}
                )
        return pd.DataFrame(rows)

    def compare(self, column: str, *, q: float = 0.5, by: str = "policy", baseline: Any) -> pd.DataFrame:
        """Difference to the baseline, paired by seed: estimate, low, high (95 %) and n_seeds."""
        name = plug_name(baseline)
        table = self._per_seed(column, q, [by]).unstack(level=0)
        if name not in table:
            raise UsageError(f"no {by} is called {name!r}; there are: {', '.join(map(str, table.columns))}")
        rows = []
        for other in table.columns:
            if other != name:
                differences = (table[other] - table[name]).dropna()
                estimate, low, high = compute_interval(differences.tolist())
                rows.append({by: other, "difference": estimate, "low": low, "high": high, "n_seeds": len(differences)})
        return pd.DataFrame(rows)

    @property
    def plot(self) -> Plotter:
        """Figures: `runs.plot.cdf("ttft_s", by="policy")`."""
        return Plotter(self.requests)
