"""What a scenario's hash notices: a stored run must never be taken for another."""

from __future__ import annotations

import functools
import linecache
import random
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quiver.errors import UsageError
from sim import Scenario
from sim.churn import spot
from sim.fingerprint import describe_plug
from sim.rules import Partition
from sim.topology import Topology

CELL = """
FACTOR = 2.0
def scale(value):
    return FACTOR * value
class Base:
    def sessions(self, rng):
        yield self.up_s(), 1.0
class Slow(Base):
    def up_s(self):
        return scale(3.0)
"""


def cell(text, *, name):
    """Run text as a notebook does: its source is only in linecache, its module is __main__."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), space)
    return space


def fingerprint(text, name="<cell-a>"):
    return describe_plug(cell(text, name=name)["Slow"])


def test_the_same_cell_run_again_is_the_same():
    assert fingerprint(CELL) == fingerprint(CELL, name="<cell-b>")


@pytest.mark.parametrize(
    ("old", "new"),
    [("3.0", "4.0"), ("FACTOR = 2.0", "FACTOR = 2.5"), ("FACTOR * value", "FACTOR + value"), ("up_s(), 1.0", "up_s(), 2.0")],
    ids=["the class", "a constant it uses", "a function it calls", "its base class"],
)  # fmt: skip
def test_a_change_anywhere_in_what_a_class_uses_is_noticed(old, new):
    assert CELL.count(old) == 1
    assert fingerprint(CELL) != fingerprint(CELL.replace(old, new))


def make_rule(delay_s):
    def rule():
        return delay_s

    return rule


def with_default(delay_s=0.1):
    return delay_s


def test_closures_defaults_partials_and_lambdas_are_told_apart_by_their_values():
    for one, other in (
        (make_rule(0.1), make_rule(0.2)),
        (functools.partial(with_default, 0.1), functools.partial(with_default, 0.2)),
        (lambda: 0.1, lambda: 0.2),
    ):
        assert describe_plug(one) == describe_plug(one) != describe_plug(other)


def test_objects_are_told_apart_by_their_state():
    pairs = [
        (Partition({0: "a"}), Partition({0: "b"})),
        (spot(), spot().starting_fresh()),
        (Topology.synthetic(4, seed=1), Topology.synthetic(4, seed=2)),
        (np.arange(3), np.arange(3.0)),
        (pd.Series([1]), pd.Series([2])),
        (random.Random(1), random.Random(2)),
        (deque([1]), deque([2])),
        ({"a", "b"}, {"a", "c"}),
        (Path("a"), Path("b")),
    ]
    for one, other in pairs:
        assert describe_plug(one) == describe_plug(one) != describe_plug(other)
    assert describe_plug(Topology.synthetic(4, seed=1)) == describe_plug(Topology.synthetic(4, seed=1))


def test_what_can_not_be_described_is_refused():
    with pytest.raises(UsageError, match="a generator inside a plug can't be told from another one"):
        describe_plug(make_rule(value for value in range(3)))


def test_an_edited_file_gives_another_scenario(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    def sessions(self, rng):\n        yield 1.0, 1.0\n")
    scenario = Scenario.named("tour").replace(churn=f"{file}:Mine", topology="synthetic", workload="mooncake-synthetic")
    before = scenario.hash()
    file.write_text(file.read_text().replace("1.0, 1.0", "2.0, 1.0"))
    assert scenario.hash() != before


def test_every_field_and_constant_is_part_of_the_hash():
    base = Scenario.named("tour").replace(topology="synthetic", workload="mooncake-synthetic")
    others = [
        base.replace(**change)
        for change in (
            {"providers": 21}, {"loss": 0.1}, {"jitter": False}, {"churn": "spot"}, {"pricing": "flat"}, {"k": 19},
            {"links": "bandwidth"}, {"hardware": "mixed"}, {"workload": "azure-code-synthetic"}, {"policy": "random"},
        )
    ]  # fmt: skip
    assert len({scenario.hash() for scenario in (base, *others)}) == 1 + len(others)
