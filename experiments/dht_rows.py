"""Runs worlds of the DHT one by one, keeps their rows and a manifest, draws the figure: what `harness` does for scenarios.

An experiment that calls `main` offers NAME, QUESTION, `measure(scale) -> rows`, `find(frame) -> str` and `figure(frame)`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import style

SCALES = ("quick", "default", "long")
LABEL = "Simulated: the DHT code of live nodes on simulated links, every one-way delay 50 ms, frames sized."


def run(experiment: Any, *, scale: str, out: Path) -> str:
    """Rows, manifest and figure in `out`; returns the finding."""
    out.mkdir(parents=True, exist_ok=True)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    frame = pd.DataFrame(experiment.measure(scale))
    finding: str = experiment.find(frame)
    frame.to_parquet(out / "rows.parquet", index=False)
    manifest = {
        "question": experiment.QUESTION, "finding": finding, "scale": scale, "python": platform.python_version(),
        "wall_s": time.perf_counter() - began_s, "cpu_s": time.process_time() - began_cpu_s,
        "rows": json.loads(frame.to_json(orient="records")),
        "replay": f"python -m experiments.{experiment.NAME} --scale {scale}",
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    style.save(experiment.figure(frame), out / f"{experiment.NAME}.png", caption=f"{finding} {LABEL}")
    return finding


def main(experiment: Any, arguments: Sequence[str] | None = None) -> None:
    """The command line of an experiment."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{experiment.NAME}", description=experiment.QUESTION)
    parser.add_argument("--scale", choices=SCALES, default="default", help="quick: seconds; long: tens of minutes")
    parser.add_argument("--out", type=Path, help="default out/NAME")
    parsed = parser.parse_args(arguments)
    out = parsed.out or Path("out") / experiment.NAME
    finding = run(experiment, scale=parsed.scale, out=out)
    print(f"{experiment.QUESTION}\n{finding}\n{out / (experiment.NAME + '.png')}")
