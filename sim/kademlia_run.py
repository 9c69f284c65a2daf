"""Scenario `kademlia-10k`: joins and lookups alone, over measured latencies, or nodes that come and go; as one summary."""

from __future__ import annotations

import resource
import time
from typing import Any

from quiver.errors import UsageError
from sim.churn import make_churn
from sim.invariants import InvariantBroken
from sim.kademlia import run_kademlia
from sim.kademlia_churn import run_kademlia_churn
from sim.rng import Substreams
from sim.rules import Links
from sim.scenario import Scenario
from sim.topology import make_topology

HOUR_S = 3600.0


def run_kademlia_scenario(scenario: Scenario, seed: int) -> dict[str, Any]:
    """The summary keys of `python -m sim run --json`; what does not exist in this scenario is 0 or None."""
    began_wall = time.perf_counter()
    topology = make_topology(scenario.topology, scenario.providers, seed=seed, fallback=scenario.fallback)
    links = Links.realistic(
        topology, Substreams(seed), jitter=scenario.jitter, loss=scenario.loss, extra=scenario.link_plugs
    )
    if scenario.churn in ("none", 0):
        result = run_kademlia(
            scenario.providers, scenario.providers, seed=seed, params=scenario.params, links=links,
            encoded=scenario.frames == "encoded", cpu_clock=time.process_time,
        )  # fmt: skip
        told = {"lookups": result.lookups, "lookups_found": result.found, "hops_mean": result.hops_mean, "hops_p95": result.hops_p95,
                "digest": result.digest, "sim_s": result.sim_s, "cpu_s": result.cpu_s, "messages": result.frames,
                "messages_per_cpu_s": result.frames_per_cpu_s, "events": result.events}  # fmt: skip
    else:
        told = _run_churn(scenario, seed, links)
    nothing = {"p50": None, "p95": None, "p99": None}
    zeros = dict.fromkeys(
        ("requests", "completed", "rejected", "failed", "cancelled", "unfinished", "prompt_tokens", "completion_tokens",
         "receipts", "epochs", "credits_owed", "credits_paid"), 0,
    )  # fmt: skip
    return {
        "scenario": scenario.name, "scenario_hash": scenario.hash(), "seed": seed,
        "data": topology.label, "fidelity": {"frames": scenario.frames, "transport": "message"},
        "nodes": scenario.providers, **zeros, "ttft_s": nothing, "tpot_s": nothing, "e2e_s": nothing, **told,
        "wall_s": time.perf_counter() - began_wall,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


def _run_churn(scenario: Scenario, seed: int, links: Links) -> dict[str, Any]:
    """An hour of coming and going after half an hour of warm-up, with about one lookup a node; frames are always sized."""
    if scenario.frames == "encoded":
        raise UsageError("kademlia-10k under churn runs with frames=sized")
    result = run_kademlia_churn(
        scenario.providers, make_churn(scenario.churn), seed=seed, params=scenario.params, links=links,
        duration_s=HOUR_S, lookups_per_s=scenario.providers / HOUR_S, cpu_clock=time.process_time,
    )  # fmt: skip
    if result.stale_records:
        raise InvariantBroken(
            f"{result.stale_records} records were held for longer than their lease after their node had gone"
        )
    keys = ("lookups", "hops_mean", "hops_p95", "digest", "sim_s", "cpu_s", "up_mean", "starts", "provider_lookups",
            "providers_found", "ghosts", "ghost_age_s_max", "records_checked", "stale_records")  # fmt: skip
    return {key: getattr(result, key) for key in keys} | {
        "lookups_found": result.found, "messages": result.frames, "messages_per_cpu_s": result.frames / result.cpu_s,
    }  # fmt: skip
