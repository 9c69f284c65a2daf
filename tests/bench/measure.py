"""CPU time and memory of this process, in turns with a peer; and of worlds that run in a fresh process each."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A world of the largest row takes a minute or two; a machine that does other work may take several times that.
CHILD_TIMEOUT_S = 1800.0


def cpu_s(function: Callable[[], object]) -> float:
    """CPU seconds one call takes, with the garbage of earlier ones collected before."""
    gc.collect()
    began = time.process_time()
    function()
    return time.process_time() - began


def interleave(
    ours: Callable[[], object], peer: Callable[[], object], repetitions: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of each repetition. Who goes first alternates; one pair before warms both up."""
    times: tuple[list[float], list[float]] = ([], [])
    for repetition in range(-1, repetitions):
        for side in (0, 1) if repetition % 2 else (1, 0):
            spent = cpu_s((ours, peer)[side])
            if repetition >= 0:
                times[side].append(spent)
    return times


def mean(values: list[float]) -> float:
    """Arithmetic."""
    return sum(values) / len(values)


def peak_rss_bytes() -> int:
    """High-water mark of this program alone: `ru_maxrss` would include the parent's from before exec. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM line: run the benchmarks on Linux")


def in_fresh_process(world: str, *, module: str = "tests.bench.worlds", **arguments: Any) -> dict[str, Any]:
    """What `<module>.<world>(**arguments)` returns in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, world, json.dumps(arguments)],
        stdout=subprocess.PIPE, text=True, check=True, timeout=CHILD_TIMEOUT_S,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
