"""Many runs: scenarios x seeds, on all cores, with progress, resumed from a folder. Their results are `sim.runs`."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
from tqdm.auto import tqdm

from quiver.errors import UsageError
from sim.intervals import compute_interval
from sim.result import Result, hash_code
from sim.runs import Runs, find_axes
from sim.scenario import Scenario
from sim.table import make_record

__all__ = ["Runs", "Sweep", "compute_interval"]  # the last one for experiments


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Scenarios x seeds."""

    scenarios: Sequence[Scenario]
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.scenarios) * len(self.seeds)

    def run(self, *, processes: int | None = None, progress: bool = True, directory: Path | str | None = None) -> Runs:
        """All runs; `processes` defaults to the cores of this machine, 1 runs them here. Their order is the sweep's.

        With a `directory` each run is saved there under its run_id, and what is there already (of the same scenario, seed
        and code) is not run again: a sweep that was stopped goes on where it was.
        """
        if processes is not None and processes < 1:
            raise UsageError(f"processes must be at least 1, not {processes}")
        hashed = [(scenario, scenario.hash()) for scenario in self.scenarios]
        jobs = [Job(scenario, seed, digest) for scenario, digest in hashed for seed in self.seeds]
        stored = [None if directory is None else Path(directory) / f"{job.scenario_hash}-{job.seed}" for job in jobs]
        results = {number: result for number, path in enumerate(stored) if (result := _reuse(path)) is not None}
        missing = {number: job for number, job in enumerate(jobs) if number not in results}
        with tqdm(total=len(jobs), initial=len(results), unit="run", disable=not progress) as bar:
            for number, result in _run_all(missing, processes or os.cpu_count() or 1):
                if (path := stored[number]) is not None:
                    result.save(path)
                results[number] = result
                bar.update(1)
        return Runs(scenarios=[job.scenario for job in jobs], results=[results[number] for number in range(len(jobs))])

    def _repr_html_(self) -> str:
        rows: dict[str, Any] = {"scenarios": len(self.scenarios), "seeds": len(self.seeds), "runs": len(self)}
        rows |= {name: ", ".join(map(str, dict.fromkeys(labels))) for name, labels in find_axes(self.scenarios).items()}
        return make_record(rows, caption="a sweep, not yet run")


class Job(NamedTuple):
    """One run. The hash goes along: only the process where a class was typed knows its source."""

    scenario: Scenario
    seed: int
    scenario_hash: str


def _reuse(path: Path | None) -> Result | None:
    """A stored run, if this very code wrote it and it can be read."""
    if path is None or not (path / "manifest.json").exists():
        return None
    try:
        result = Result.load(path)
    except (OSError, ValueError, KeyError):
        return None
    return result if result.manifest["code"] == hash_code() else None


def _run_all(jobs: dict[int, Job], processes: int) -> Iterator[tuple[int, Result]]:
    """(number, result) as they finish."""
    if min(processes, len(jobs)) <= 1:
        for number, job in jobs.items():
            yield number, _run_one(job)
        return
    # spawn: a forked child would share the parent's threads and event loops. No max_tasks_per_child: it can hang (cpython 115634).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        # A class of a notebook travels by value.
        futures = {pool.submit(_run_pickled, cloudpickle.dumps(job)): number for number, job in jobs.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], pickle.loads(future.result())
        except BaseException:
            # Stopped, or one run failed: do not make the caller wait for all others.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_one(job: Job) -> Result:
    from sim.world import World

    return World(job.scenario, job.seed, scenario_hash=job.scenario_hash).run(progress=False)


def _run_pickled(job: bytes) -> bytes:
    result: bytes = cloudpickle.dumps(_run_one(pickle.loads(job)))
    # A finished world is full of cycles; the next one should not pay for its memory.
    gc.collect()
    return result
