"""Policies of other people: the same class from a notebook and from a file decides the same, and mistakes are named."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from quiver.errors import UsageError
from quiver.selection.peak_ewma import PeakEwma
from quiver.selection.plugin import load, resolve
from quiver.selection.policy import tell
from quiver.values.decision import Candidate, Decision, Outcome, Scored
from quiver.values.request import InferenceRequest
from tests.unit.selection.builders import candidate, outcome, request


class Cheapest:
    """Lowest price first; avoids whoever failed last."""

    name = "cheapest"

    def __init__(self) -> None:
        self.avoided = b""

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        order = sorted((c.peer == self.avoided, c.completion_price, rng.random(), c.peer) for c in candidates)
        ranked = tuple(Scored(peer=peer, score=price, reason="price") for _, price, _, peer in order)
        return Decision(ranked=ranked, policy=self.name)

    def on_outcome(self, outcome: Outcome, *, now: float) -> None:
        if not outcome.ok:
            self.avoided = outcome.peer


SOURCE = """
from quiver.values.decision import Decision, Scored

class Cheapest:
    name = "cheapest"

    def __init__(self):
        self.avoided = b""

    def choose(self, request, candidates, *, now, rng):
        order = sorted((c.peer == self.avoided, c.completion_price, rng.random(), c.peer) for c in candidates)
        ranked = tuple(Scored(peer=peer, score=price, reason="price") for _, price, _, peer in order)
        return Decision(ranked=ranked, policy=self.name)

    def on_outcome(self, outcome, *, now):
        if not outcome.ok:
            self.avoided = outcome.peer
"""


def test_a_policy_from_a_file_decides_as_the_class_in_this_process(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    here, there = resolve(Cheapest)(), load(f"{file}:Cheapest")()
    rng_here, rng_there, prices = random.Random(4), random.Random(4), random.Random(5)
    for step in range(50):
        pool = [candidate(f"p{at}", completion_price=prices.randrange(4)) for at in range(6)]
        decision = here.choose(request(), pool, now=float(step), rng=rng_here)
        assert decision == there.choose(request(), pool, now=float(step), rng=rng_there)
        ended = outcome(decision.ranked[0].peer.decode(), ok=step % 3 > 0)
        tell(here, ended, now=float(step))
        tell(there, ended, now=float(step))


def test_a_policy_from_a_module_is_the_class_itself():
    assert load("quiver.selection.peak_ewma:PeakEwma") is PeakEwma
    assert load("peak-ewma") is PeakEwma


def test_each_call_of_the_factory_makes_a_fresh_policy_and_the_check_leaves_no_trace():
    factory = resolve(Cheapest)
    one, other = factory(), factory()
    tell(one, outcome("a", ok=False), now=0.0)
    assert (one.avoided, other.avoided) == (b"a", b"")  # type: ignore[attr-defined]


def test_an_edited_file_is_loaded_anew(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    before = load(f"{file}:Cheapest")
    assert load(f"{file}:Cheapest") is before
    file.write_text(SOURCE.replace('"cheapest"', '"cheaper"'))
    assert load(f"{file}:Cheapest")().name == "cheaper"
    assert before().name == "cheapest"


BODY = "return Decision(ranked=tuple(Scored(peer=c.peer, score=0, reason='') for c in candidates), policy='x')"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Other: pass", "has no class 'Mine'"),
        ("Mine = 3", "give the policy's class"),
        ("class Mine:\n  def __init__(self, alpha): pass", "give each constructor argument a default"),
        (f"class Mine:\n  def choose(self, request, candidates, *, now, rng): {BODY}", "has no name"),
        ("class Mine:\n  name = 'x'", "has no method choose"),
        (f"class Mine:\n  name = 'x'\n  def choose(self, request, candidates): {BODY}", "its signature is"),
        (f"class Mine:\n  name = 'x'\n  async def choose(self, request, candidates, *, now, rng): {BODY}", "is async"),
        ("class Mine:\n  name = 'x'\n  def choose(self, request, candidates, *, now, rng): return candidates[0]",
         "0 candidates"),
        ("class Mine:\n  name = 'x'\n  def choose(self, request, candidates, *, now, rng): return 'a'",
         "return a Decision"),
        (f"class Mine:\n  name = 'x'\n  def choose(self, request, candidates, *, now, rng): {BODY}\n"
         "  def on_outcome(self, outcome): pass", "keywords"),
        ("import nothing_by_this_name", "failed while it was loaded"),
        ("class Mine(", "failed while it was loaded"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_policy_file_is_named(tmp_path: Path, source: str, message: str):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent("from quiver.values.decision import Decision, Scored\n") + source)
    with pytest.raises(UsageError, match=message):
        load(f"{file}:Mine")


def test_a_missing_file_or_module_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="check the path"):
        load(f"{tmp_path}/none.py:Mine")
    with pytest.raises(UsageError, match="is it installed"):
        load("nothing_by_this_name:Mine")
