"""A policy that asks another one, named in the environment, and writes down every question, every draw and every answer.

Live and simulated gateways load it alike: `recorder.py:Recorder`.
"""

from __future__ import annotations

import itertools
import os
import random

import msgspec

from quiver.selection import plugin
from quiver.values.decision import Candidate, Decision, Outcome
from quiver.values.request import InferenceRequest

POLICY_VARIABLE, FILE_VARIABLE = "QUIVER_TEST_POLICY", "QUIVER_TEST_RECORDING"
_instances = itertools.count()


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag="asked"):
    """One decision. `rng` is the generator's state before it."""

    instance: int
    request: InferenceRequest
    candidates: tuple[Candidate, ...]
    now: float
    rng: tuple[int, tuple[int, ...], float | None]
    decision: Decision


class Told(msgspec.Struct, frozen=True, kw_only=True, tag="told"):
    """One outcome."""

    instance: int
    outcome: Outcome
    now: float


class Recorder:
    """Each instance has its number: a policy is tried out before a gateway makes its own."""

    name = "recorder"

    def __init__(self):
        self._inner = plugin.load(os.environ[POLICY_VARIABLE])()
        self._instance = next(_instances)

    def choose(self, request, candidates, *, now, rng):
        """As the other one."""
        state = rng.getstate()
        decision = self._inner.choose(request, candidates, now=now, rng=rng)
        asked = Asked(
            instance=self._instance,
            request=request,
            candidates=tuple(candidates),
            now=now,
            rng=state,
            decision=decision,
        )
        self._write(asked)
        return decision

    def on_outcome(self, outcome, *, now):
        """As the other one."""
        self._write(Told(instance=self._instance, outcome=outcome, now=now))
        self._inner.on_outcome(outcome, now=now)

    @staticmethod
    def _write(record):
        with open(os.environ[FILE_VARIABLE], "ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")


def read(path):
    """All records, in order."""
    return msgspec.json.decode(b"[" + b",".join(path.read_bytes().splitlines()) + b"]", type=list[Asked | Told])


def replay(records, factory):
    """The decisions of fresh policies, one for each that was recorded, on the same inputs and the same draws."""
    policies, decisions = {}, []
    for record in records:
        if record.instance not in policies:
            policies[record.instance] = factory()
        policy = policies[record.instance]
        if isinstance(record, Told):
            policy.on_outcome(record.outcome, now=record.now)
        else:
            rng = random.Random()
            rng.setstate(record.rng)
            decisions.append(policy.choose(record.request, list(record.candidates), now=record.now, rng=rng))
    return decisions
