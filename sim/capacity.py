"""How much a pool can serve, and how long a request would truly wait: ground truth, for the workload's scale and the oracle.

Rules of this file: machines, slots and mean lengths in, numbers out; no roles, no draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from quiver.ids import PeerId
from sim.hardware import HardwareProfile
from sim.workload import Workload


class MeanLengths(NamedTuple):
    """Mean tokens of a workload's requests."""

    prompt: float
    output: float

    @classmethod
    def of(cls, workload: Workload) -> MeanLengths:
        """Measured over all its rows."""
        return cls(float(np.mean(workload.input_tokens)), float(np.mean(workload.output_tokens)))


class MachineState(NamedTuple):
    """A provider that is up, as it is now."""

    profile: HardwareProfile
    slots: int
    admitted: int
    "Requests running or queued."


def compute_capacity(machines: Iterable[tuple[HardwareProfile, int]], mean: MeanLengths) -> float:
    """Requests per second that (profile, slots) can serve at most: all slots busy, every request of mean length."""
    total = 0.0
    for profile, slots in machines:
        step_s = profile.step_s(slots, mean.prompt + mean.output / 2)
        total += 1.0 / (profile.prefill_s(mean.prompt) + mean.output * step_s / slots)
    return total


def make_true_wait(look: Callable[[PeerId], MachineState | None], mean: MeanLengths) -> Callable[[PeerId], float]:
    """Expected seconds to serve a mean request sent to a peer now; infinite if `look` finds no machine that is up."""
    prompt, output = int(mean.prompt) or 1, int(mean.output) or 1

    def wait_s(peer: PeerId) -> float:
        state = look(peer)
        if state is None:
            return float("inf")
        profile, slots, ahead = state
        context = prompt + output / 2
        served_s = profile.prefill_s(prompt) + output * profile.step_s(min(ahead + 1, slots), context)
        full_s = profile.prefill_s(prompt) + output * profile.step_s(slots, context)
        return max(0, ahead + 1 - slots) * full_s / slots + served_s

    return wait_s
