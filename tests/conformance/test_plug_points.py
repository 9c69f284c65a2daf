"""Conformance: every built-in of every plug point meets its Protocol, repeats by seed, and serves a tour."""

from __future__ import annotations

import inspect
import itertools
import math
import random

import pytest

from quiver.ports import InferenceBackend
from quiver.provider.pricing import Price
from quiver.selection.plugin import check_policy
from quiver.selection.registry import POLICIES
from sim import Scenario, World, data
from sim.churn import CHURN
from sim.data import DataMissing
from sim.hardware import HARDWARE, HardwareProfile, profile
from sim.machine import SERVICE
from sim.named_workloads import WORKLOAD
from sim.plug import plug_name
from sim.pricing import PRICING, ask_price
from sim.rng import Substreams
from sim.rules import JITTER, LINKS, LOSS, Loss, Partition
from sim.topology import TOPOLOGY, Topology

RULES = {**JITTER.builtins, **LOSS.builtins, **LINKS.builtins, "loss": lambda t, s: Loss(t, s, probability=0.2),
         "partition": lambda t, s: Partition.isolate([0], len(t), start_s=5.0)}  # fmt: skip
TINY = Scenario.named("tour").replace(
    providers=4, gateways=1, duration_s=8.0, arrivals=1.0, topology="synthetic", workload="azure-conv-synthetic"
)
HERE = {row.name for row in data.status() if row.state in {"ok", "converted"}}


@pytest.mark.parametrize("name", sorted(CHURN.builtins))
def test_churn_alternates_for_ever_and_repeats(name):
    def take():
        return list(itertools.islice(CHURN.make(name).sessions(random.Random(1)), 50))

    sessions = take()
    assert sessions == take() and len(sessions) == 50
    assert all(up >= 0 and down >= 0 for up, down in sessions)
    assert all(up > 0 for up, _ in sessions[1:])


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_link_rule_is_a_function_of_its_arguments(name):
    topology, calls = (
        Topology.synthetic(6, seed=2),
        [(a, b, 900, 0.5 * t) for t in range(40) for a in range(3) for b in range(3, 6)],
    )

    def ask(order):
        rule = LINKS.make(RULES[name], topology, Substreams(7))
        return {call: rule.delay_s(*call) for call in order}

    delays = ask(calls)
    assert delays == ask(calls)
    assert all(delay > -topology.delay_s(a, b) for (a, b, _, _), delay in delays.items())
    if name != "bandwidth":  # a queue depends on what went before
        assert delays == ask(calls[::-1])
    assert name == "partition" or all(map(math.isfinite, delays.values()))


@pytest.mark.parametrize("name", sorted(HARDWARE.builtins))
def test_a_pool_gives_machines_and_repeats(name):
    pool = HARDWARE.make(name)
    machines = list(pool.sample(20, random.Random(3)))
    assert [m.name for m in machines] == [m.name for m in pool.sample(20, random.Random(3))]
    assert len(machines) == 20
    for machine in machines:
        assert isinstance(machine, HardwareProfile)
        assert machine.prefill_s(500) > 0 and 0 < machine.step_s(1, 0) < machine.step_s(machine.slots, 500)


@pytest.mark.parametrize("name", sorted(PRICING.builtins))
def test_prices_are_whole_credits_and_repeat(name):
    def ask():
        return ask_price(PRICING.make(name), profile("gpu-h100"), random.Random(4))

    assert isinstance(ask(), Price) and ask() == ask()
    assert ask().completion > ask().prompt > 0


@pytest.mark.parametrize("name", sorted(TOPOLOGY.builtins))
def test_a_topology_places_every_node_and_repeats(name):
    if name in ("planetlab", "seattle") and name not in HERE or name == "simblock" and "simblock-latency" not in HERE:
        with pytest.raises(DataMissing):
            Topology.named(name, 30)
        return
    topology, again = Topology.named(name, 30, seed=5), Topology.named(name, 30, seed=5)
    assert len(topology) == 30
    for a, b in itertools.combinations(range(30), 2):
        assert 0 < topology.delay_s(a, b) < 5 and topology.delay_s(a, b) == again.delay_s(a, b)
    assert all(topology.region_of(node) for node in range(30))


@pytest.mark.parametrize("name", sorted(WORKLOAD.builtins))
def test_a_workload_has_rows_and_repeats(name):
    try:
        workload = WORKLOAD.make(name, 6)
    except DataMissing:
        assert not name.endswith("-synthetic")
        return
    assert len(workload) > 100 and workload.rate_rps > 0
    assert workload.checksum() == WORKLOAD.make(name, 6).checksum()
    assert workload.label == ("real" if name in ("azure-conv", "azure-code", "mooncake") else "synthetic")


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_answers_trial_questions(name):
    check_policy(POLICIES[name], name)


@pytest.mark.parametrize("name", sorted(SERVICE.builtins))
def test_an_engine_has_the_methods_of_the_port(name):
    wanted = [
        method
        for method, value in vars(InferenceBackend).items()
        if inspect.isfunction(value) and not method.startswith("_")
    ]
    assert sorted(SERVICE.methods) == sorted(wanted)
    assert World(TINY.replace(service=name), seed=1).run(progress=False).summary["completed"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        *({"churn": name} for name in (*CHURN.builtins, 30.0)),
        *({"pricing": name} for name in PRICING.builtins),
        *({"hardware": name} for name in ("consumer", "datacentre", "mixed", profile("gpu-3090"))),
        *({"policy": name} for name in (*POLICIES, "oracle")),
        {"jitter": "wander"}, {"jitter": False}, {"loss": 0.05}, {"links": "bandwidth"}, {"links": Partition({})},
    ],
    ids=lambda changes: "-".join(f"{name}-{plug_name(value)}" for name, value in changes.items()),
)  # fmt: skip
def test_a_tour_runs_with_every_built_in_and_repeats(changes):
    scenario = TINY.replace(**changes)
    first, again = (World(scenario, seed=2).run(progress=False) for _ in range(2))
    assert first.digest == again.digest
    s = first.summary
    assert s["requests"] == s["completed"] + s["rejected"] + s["failed"] + s["cancelled"] + s["unfinished"] > 0
