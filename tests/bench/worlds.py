"""Whole worlds, each run in a process of its own: `python -m tests.bench.worlds NAME JSON` prints one JSON line."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from sim.kademlia import run_kademlia
from sim.scenario import Scenario
from sim.workload import poisson
from sim.world import World
from tests.bench.measure import peak_rss_bytes

RATE_RPS = 2000.0


def kademlia(*, nodes: int, encoded: bool) -> dict[str, Any]:
    """Joins, then as many lookups; memory is counted beyond what the imported modules take."""
    imported = peak_rss_bytes()
    began = time.process_time()
    result = run_kademlia(nodes, nodes, encoded=encoded)
    cpu_s = time.process_time() - began
    return {
        "messages_per_cpu_s": result.frames / cpu_s, "found": result.found / result.lookups, "messages": result.frames,
        "rss_bytes": peak_rss_bytes() - imported, "cpu_s": cpu_s, "digest": result.digest,
    }  # fmt: skip


def requests(*, duration_s: float, chunks: str, signatures: str, seed: int) -> dict[str, Any]:
    """`requests-1m`, shortened; the time covers joining, serving and settlement."""
    workload = poisson(rate_rps=RATE_RPS, duration_s=duration_s, input_tokens=64, output_tokens=8)
    scenario = Scenario.named("requests-1m").replace(
        workload=workload, duration_s=duration_s, chunks=chunks, signatures=signatures
    )
    world = World(scenario, seed)
    began = time.process_time()
    summary = world.run(progress=False).summary
    cpu_s = time.process_time() - began
    return {key: summary[key] for key in ("requests", "completed", "digest")} | {"cpu_s": cpu_s}


WORLDS = {"kademlia": kademlia, "requests": requests}

if __name__ == "__main__":
    print(json.dumps(WORLDS[sys.argv[1]](**json.loads(sys.argv[2]))))
