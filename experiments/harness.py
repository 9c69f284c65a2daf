"""Runs the scenarios of a question, keeps rows and manifest, draws its figure. An experiment is a module with these names.

QUESTION          one sentence
scenarios(quick)  -> list of `Scenario`
summarise(runs)   -> tidy frame, one row a point of the figure
find(runs)        -> the finding in words, computed from the rows
figure(frame)   -> matplotlib figure
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from matplotlib.figure import Figure

from experiments import style
from sim.plot import describe_runs
from sim.scenario import Scenario
from sim.sweep import Runs, Sweep

QUICK_SEEDS = 2


class Experiment(Protocol):
    """What a module of this folder offers."""

    NAME: str
    QUESTION: str

    def scenarios(self, quick: bool) -> list[Scenario]: ...
    def summarise(self, runs: Runs) -> pd.DataFrame: ...
    def find(self, runs: Runs) -> str: ...
    def figure(self, frame: pd.DataFrame) -> Figure: ...


def run(
    experiment: Experiment,
    *,
    seeds: Sequence[int],
    quick: bool,
    out: Path,
    processes: int | None = None,
    progress: bool = True,
) -> str:
    """All runs (those of before are reused), then rows, manifest and figure in `out`; returns the finding."""
    began_s = time.perf_counter()
    sweep = Sweep(scenarios=experiment.scenarios(quick), seeds=tuple(seeds))
    runs = sweep.run(directory=out / "runs", processes=processes, progress=progress)
    frame, finding = experiment.summarise(runs), experiment.find(runs)
    runs.requests.to_parquet(out / "requests.parquet", index=False)
    frame.to_parquet(out / "summary.parquet", index=False)
    manifest = make_manifest(experiment, runs, finding, wall_s=time.perf_counter() - began_s)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    style.save(experiment.figure(frame), out / f"{experiment.NAME}.png", caption=f"{finding} {describe(runs)}")
    return finding


def describe(runs: Runs) -> str:
    """What every figure says about itself."""
    return f"{describe_runs([result.summary for result in runs.results])} Bands are 95 % t-intervals over seeds."


def make_manifest(experiment: Experiment, runs: Runs, finding: str, *, wall_s: float) -> dict[str, Any]:
    """What is needed to run it again: code, every scenario by hash, every run by digest."""
    first = runs.results[0].manifest
    return {
        "question": experiment.QUESTION, "finding": finding, "wall_s": wall_s,
        "cpu_s": sum(result.summary["cpu_s"] for result in runs.results),
        **{key: first[key] for key in ("quiver", "git_commit", "code", "python", "packages", "data_note")},
        "runs": [
            {key: result.summary[key] for key in ("scenario_hash", "seed", "policy", "digest")} | {"load": scenario.load}
            for scenario, result in zip(runs.scenarios, runs.results, strict=True)
        ],
        "scenarios": {s.hash(): s.describe() for s in runs.scenarios},
        "replay": f"python -m experiments.{experiment.NAME}",
    }  # fmt: skip


def main(experiment: Any, arguments: Sequence[str] | None = None) -> None:
    """The command line of an experiment."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{experiment.NAME}", description=experiment.QUESTION)
    parser.add_argument("--seeds", type=int, help="replications; default 10, with --quick 2")
    parser.add_argument("--quick", action="store_true", help="a tiny version of every run, for tests")
    parser.add_argument("--out", type=Path, help="default out/NAME, with --quick out/NAME-quick")
    parser.add_argument("--processes", type=int, help="default: all cores")
    parsed = parser.parse_args(arguments)
    seeds = range(parsed.seeds or (QUICK_SEEDS if parsed.quick else 10))
    out = parsed.out or Path("out") / (experiment.NAME + ("-quick" if parsed.quick else ""))
    out.mkdir(parents=True, exist_ok=True)
    finding = run(experiment, seeds=seeds, quick=parsed.quick, out=out, processes=parsed.processes)
    print(f"{experiment.QUESTION}\n{finding}\n{out / (experiment.NAME + '.png')}")
