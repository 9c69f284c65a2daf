"""A class typed in a cell or file becomes a file that decides the same."""

from __future__ import annotations

import heapq
import linecache
import random
from collections.abc import Sequence
from math import inf

import msgspec
import pytest

from quiver.errors import UsageError
from quiver.selection.plugin import load
from quiver.selection.policy import RANKED_MAX, rank
from quiver.selection.power_of_two import PowerOfTwo
from quiver.values.decision import Candidate, Decision
from quiver.values.request import Dialect, InferenceRequest
from sim import export
from sim.fingerprint import describe_plug
from sim.source import read_source

PENALTY_S = 0.25
NEVER = inf


def cost_s(candidate: Candidate) -> float:
    return NEVER if candidate.slots < 1 else (candidate.rtt_s or 0.1) + PENALTY_S * candidate.in_flight


class Mine(PowerOfTwo):
    """Uses an import, a constant, a function and a base class of this file."""

    name = "mine"

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        if len(heapq.nsmallest(RANKED_MAX, candidates, key=cost_s)) < 3:
            return super().choose(request, candidates, now=now, rng=rng)
        return rank(candidates, cost_s, policy=self.name, reason="cost {score:.3f} s", rng=rng)


class Unwritable:
    name = "unwritable"

    def choose(self, request, candidates, *, now, rng):
        return rank(candidates, lambda candidate: SHARED.random(), policy=self.name, reason="", rng=rng)


SHARED = random.Random(1)


def questions(count, seed):
    """Random candidate sets of a request each."""
    rng = random.Random(seed)
    for number in range(count):
        request = InferenceRequest(
            request_id=number.to_bytes(16, "big"), model="m", dialect=Dialect.NATIVE, body=b"", max_tokens=8,
            prompt_tokens_estimate=8, deadline_ms=60_000,
        )  # fmt: skip
        yield (
            request,
            [
                Candidate(
                    peer=bytes([peer]),
                    slots=rng.randrange(0, 4),
                    prompt_price=1,
                    completion_price=1,
                    in_flight=rng.randrange(5),
                    rtt_s=rng.choice([None, rng.random()]),
                    ttft_ewma_s=None,
                    channel_ready=True,
                    opening_cost_credits=0,
                    warm=True,
                    reported_queued=0,
                    reported_running=0,
                    reported_age_s=0.0,
                    reported_prefill_tps=1.0,
                    reported_decode_tps=1.0,
                )  # fmt: skip
                for peer in range(rng.randrange(1, 12))
            ],
        )


def decide(policy, seed):
    rng = random.Random(seed)
    return [
        msgspec.json.encode(policy.choose(request, candidates, now=float(number), rng=rng))
        for number, (request, candidates) in enumerate(questions(50, seed))
    ]


def test_an_exported_class_decides_as_in_this_process(tmp_path):
    spec = export(Mine, tmp_path / "my_policy.py")
    assert spec == f"{tmp_path / 'my_policy.py'}:Mine"
    assert decide(load(spec)(), 7) == decide(Mine(), 7)
    text = (tmp_path / "my_policy.py").read_text()
    assert "PENALTY_S = 0.25" in text and 'NEVER = float("inf")' in text and "def cost_s" in text
    assert "from quiver.selection.policy import rank" in text and "import heapq" in text


def cell(text, *, name="<cell-1>", **names):
    """Run text as a notebook does: its source is only in linecache, its module is __main__."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space = {"__name__": "__main__", **names}
    exec(compile(text, name, "exec"), space)
    return space


CELL = """from quiver.selection.policy import rank
FACTOR = 2
class Cheapest:
    name = "cheapest"
    def choose(self, request, candidates, *, now, rng):
        return rank(candidates, lambda c: FACTOR * c.prompt_price, policy=self.name, reason="", rng=rng)
"""


def test_the_class_of_a_cell_is_found_and_exported(tmp_path):
    cheapest = cell(CELL)["Cheapest"]
    assert read_source(cheapest).startswith("class Cheapest:\n")
    assert decide(load(export(cheapest, tmp_path / "cheapest.py"))(), 3) == decide(cheapest(), 3)


def test_the_source_tells_two_versions_of_a_cells_class_apart():
    one, two = cell(CELL)["Cheapest"], cell(CELL.replace('"cheapest"', '"dearest"'), name="<cell-2>")["Cheapest"]
    assert describe_plug(one) != describe_plug(two)


def test_what_cannot_be_written_or_does_not_run_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="uses SHARED, a Random, which cannot be written"):
        export(Unwritable, tmp_path / "unwritable.py")
    with pytest.raises(UsageError, match="uses missing, which is not defined"):
        export(cell(CELL.replace("FACTOR * ", "missing * "), name="<cell-3>")["Cheapest"], tmp_path / "missing.py")
    with pytest.raises(UsageError, match="does not work in a fresh process.*has no name"):
        export(cell(CELL.replace("    name =", "    title ="), name="<cell-4>")["Cheapest"], tmp_path / "nameless.py")
    with pytest.raises(UsageError, match=r"must end in \.py"):
        export(Mine, tmp_path / "policy.txt")
    assert not list(tmp_path.iterdir())
