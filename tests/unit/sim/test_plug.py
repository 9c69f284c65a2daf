"""The resolver of plug points: names, classes, functions, objects and files, and what it says about anything else."""

from __future__ import annotations

import math

import pytest

from quiver.errors import UsageError
from sim import Scenario, World
from sim.churn import NoChurn, WeibullChurn, make_churn, spot
from sim.hardware import profile, sample_pool
from sim.plug import PlugPoint, plug_name
from sim.pricing import Spread
from sim.rules import LINKS, Partition
from sim.topology import Topology, make_topology

POINT = PlugPoint(field="churn", builtins={"none": NoChurn}, offers=("a", "b"), methods={"sessions": ("rng",)})


class Weekends:
    """Fits, takes nothing."""

    def __init__(self):
        self.seen = []

    def sessions(self, rng):
        yield 1.0, math.inf


class Told(Weekends):
    """Fits, takes what the point offers."""

    def __init__(self, a, b):
        super().__init__()
        self.told = (a, b)


class Demanding(Weekends):
    def __init__(self, a, b, c):
        super().__init__()


class Empty:
    pass


class Narrow:
    def sessions(self):
        yield 1.0, 1.0


def test_a_class_is_made_with_what_its_point_offers_or_less():
    assert POINT.make(Told, 1, 2).told == (1, 2)
    assert isinstance(POINT.make(Weekends, 1, 2), Weekends)
    assert POINT.make(lambda a: Told(a, None), 1, 2).told == (1, None)
    assert isinstance(POINT.make("none", 1, 2), NoChurn)
    assert POINT.make(lambda a, b: Told(b, a), 1, 2).told == (2, 1)


def test_an_object_is_copied_for_each_world():
    one = Weekends()
    first, second = POINT.make(one, 1, 2), POINT.make(one, 1, 2)
    first.seen.append("first world")
    assert second.seen == one.seen == []


def test_a_file_and_a_module_name_a_class(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("class Never:\n    def sessions(self, rng):\n        yield float('inf'), 0.0\n")
    assert type(POINT.make(f"{file}:Never", 1, 2)).__name__ == "Never"
    assert isinstance(POINT.make("sim.churn:spot", 1, 2), WeibullChurn)


@pytest.mark.parametrize(
    ("plug", "complaint"),
    [
        ("weekends", "no churn is called 'weekends'; there are: none; or give module:Class"),
        (Empty, r"Empty made .*without a method sessions\(rng\)"),
        (Empty(), r"a Empty without a method sessions\(rng\)"),
        (Narrow, r"whose sessions\(\) can't be called as sessions\(rng\)"),
        (Demanding, r"Demanding\(a, b, c\) cannot be called; it is called with \(a, b\), or as many"),
        (lambda: None, "made None, which is a NoneType without"),
        (["spot"], "a list without a method"),
        ("sim.churn:Weekend", "sim.churn has no class 'Weekend'"),
        ("missing_module:Weekend", "'missing_module' could not be imported"),
        ("missing_file.py:Weekend", "file missing_file.py could not be read"),
        ("sim.churn:_HOUR_S", "sim.churn:_HOUR_S is a float without a method"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_field_and_what_is_missing(plug, complaint):
    with pytest.raises(UsageError, match=complaint):
        POINT.make(plug, 1, 2)


@pytest.mark.parametrize(
    ("field", "plug", "complaint"),
    [
        ("workload", "azure", "no workload is called 'azure'; there are: azure-code, .*azure-conv"),
        ("workload", 5, "workload: 5 is no Workload, but a int"),
        ("topology", "mars", "no topology is called 'mars'; there are: planetlab"),
        ("topology", [[0.0]], "is no Topology, but a list"),
        ("jitter", "wobble", "no jitter is called 'wobble'; there are: true or false, wander"),
        ("loss", "some", "no loss is called 'some'; there are: a probability"),
        ("loss", 1.5, "a probability from 0 to below 1, not 1.5"),
        ("links", ("bandwidth", 3), r"links: 3 is a int without a method delay_s\(src, dst, size_bytes, now\)"),
        ("hardware", "gpu-9999", "no hardware is called 'gpu-9999'; there are: .*gpu-h100"),
        ("pricing", object(), r"without a method price\(profile, rng\)"),
        ("churn", "sometimes", "no churn is called 'sometimes'; there are: departures per hour, ipfs, none, spot"),
        ("churn", -1.0, "churn -1.0 is no rate"),
        ("churn", "nan", "churn nan is no rate"),
        ("service", "fast", "no service is called 'fast'; there are: engine, instant"),
        ("policy", 3, "policy is a int: give the class"),
        ("providers", 0, "providers must be at least 1, not 0"),
        ("duration_s", math.nan, "duration_s must be positive, not nan"),
        ("load", -0.5, "load must be positive"),
        ("drain_s", math.inf, "drain_s must be at least 0, not inf"),
        ("frames", "json", "frames is one of encoded, sized, not 'json'"),
    ],
)
def test_a_scenario_refuses_a_wrong_value_before_any_world_is_built(field, plug, complaint):
    with pytest.raises(UsageError, match=complaint):
        Scenario.named("tour").replace(**{field: plug})


def test_a_pool_must_give_one_machine_a_provider():
    class TwoOnly:
        def sample(self, count, rng):
            return [profile("gpu-h100")] * 2

    class Words:
        def sample(self, count, rng):
            return ["gpu-h100"] * count

    with pytest.raises(UsageError, match=r"sample\(3, rng\) returned 2 machines; it must return 3 HardwareProfiles"):
        sample_pool(3, None, TwoOnly)
    with pytest.raises(UsageError, match="among them a str"):
        sample_pool(3, None, Words)


def test_a_topology_must_be_large_enough():
    with pytest.raises(UsageError, match="has 4 nodes, and this scenario has 9"):
        make_topology(Topology.synthetic(4), 9, seed=1)


def test_a_price_list_must_be_whole_credits():
    class Cheap:
        def price(self, profile, rng):
            return 3

    scenario = Scenario.named("tour").replace(
        pricing=Cheap, providers=2, topology="synthetic", workload="mooncake-synthetic"
    )
    with pytest.raises(UsageError, match=r"Cheap.price returned 3; it must return a quiver.provider.pricing.Price"):
        World(scenario)


def test_numbers_are_departures_per_hour():
    assert make_churn("0.5") == make_churn(0.5)
    assert make_churn(0.5).up.mean_s() == pytest.approx(7200.0)
    assert isinstance(make_churn(0), NoChurn) and isinstance(make_churn("0"), NoChurn)


def test_tables_show_a_plug_by_its_name():
    assert plug_name("file.py:Mine") == plug_name("module:Mine") == "Mine"
    assert plug_name(Weekends) == plug_name(Weekends()) == "Weekends"
    assert plug_name(spot()) == "spot"
    assert (plug_name(0.25), plug_name(3), plug_name(Spread)) == ("0.25", "3", "Spread")


def test_links_may_be_one_rule_or_several():
    one = Scenario.named("tour").replace(links=Partition({}))
    several = Scenario.named("tour").replace(links=[Partition({}), "bandwidth"])
    assert len(one.link_plugs) == 1 and len(several.link_plugs) == 2
    assert isinstance(LINKS.make(one.link_plugs[0], None, None), Partition)
