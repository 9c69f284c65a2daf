"""Scenario `kademlia-10k`: joins and lookups alone, over measured latencies, as one summary."""

from __future__ import annotations

import resource
import time
from typing import Any

from sim.kademlia import run_kademlia
from sim.rng import Substreams
from sim.rules import Links
from sim.scenario import Scenario
from sim.topology import make_topology


def run_kademlia_scenario(scenario: Scenario, seed: int) -> dict[str, Any]:
    """The summary keys of `python -m sim run --json`; what does not exist in this scenario is 0 or None."""
    began_wall = time.perf_counter()
    topology = make_topology(scenario.topology, scenario.providers, seed=seed, fallback=scenario.fallback)
    links = Links.realistic(
        topology, Substreams(seed), jitter=scenario.jitter, loss=scenario.loss, extra=scenario.link_plugs
    )
    result = run_kademlia(
        scenario.providers, scenario.providers, seed=seed, params=scenario.params, links=links,
        encoded=scenario.frames == "encoded", cpu_clock=time.process_time,
    )  # fmt: skip
    nothing = {"p50": None, "p95": None, "p99": None}
    zeros = dict.fromkeys(
        ("requests", "completed", "rejected", "failed", "cancelled", "unfinished", "prompt_tokens", "completion_tokens",
         "receipts", "epochs", "credits_owed", "credits_paid"), 0,
    )  # fmt: skip
    return {
        "scenario": scenario.name, "scenario_hash": scenario.hash(), "seed": seed, "digest": result.digest,
        "data": topology.label, "fidelity": {"frames": scenario.frames, "transport": "message"},
        "nodes": result.nodes, **zeros, "ttft_s": nothing, "tpot_s": nothing, "e2e_s": nothing,
        "lookups": result.lookups, "lookups_found": result.found, "hops_mean": result.hops_mean,
        "messages": result.frames, "messages_per_cpu_s": result.frames_per_cpu_s, "events": result.events,
        "sim_s": result.sim_s, "cpu_s": result.cpu_s, "wall_s": time.perf_counter() - began_wall,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip
