"""A provider's machine: what an engine of the simulation is made from, and the engines there are by name.

Rules of this file: an engine is any `quiver.ports.InferenceBackend`; it sees its requests and this value, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quiver.ids import RequestId
from quiver.ports import Clock, InferenceBackend
from quiver.values.backend import InstalledModel
from sim.hardware import HardwareProfile
from sim.instant import InstantBackend
from sim.plug import Plug, PlugPoint
from sim.rng import Substreams
from sim.service_time import SimBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Offered to the `service` plug each time a provider starts."""

    profile: HardwareProfile
    models: Sequence[InstalledModel]
    slots: int
    "Streams served at once."
    chunk_tokens: int
    "Tokens of a piece after the first; 1 sends each token alone."
    clock: Clock
    "`await clock.sleep(s)` is how an engine takes time."
    streams: Substreams
    output_tokens: Callable[[RequestId], int]
    "How long the answer is if `max_tokens` does not cut it: the workload's length, the same for all policies."
    prefix_blocks: Callable[[RequestId], Sequence[int | bytes]] | None = None
    "Shared 512-token blocks of the prompt; None where the workload does not say."


def make_engine(machine: Machine) -> SimBackend:
    """The LLM service-time model: prefill, continuous batching, prefix cache, divergence between builds."""
    return SimBackend(
        machine.profile, machine.models, machine.streams, output_tokens=machine.output_tokens, slots=machine.slots,
        chunk_tokens=machine.chunk_tokens, build=machine.profile.name, prefix_blocks=machine.prefix_blocks,
    )  # fmt: skip


def make_instant(machine: Machine) -> InstantBackend:
    """Answers at once, to measure the protocol alone."""
    return InstantBackend(machine.models, output_tokens=machine.output_tokens, chunk_tokens=machine.chunk_tokens)


SERVICE = PlugPoint(
    field="service", builtins={"engine": make_engine, "instant": make_instant}, offers=("machine",),
    methods={"models": (), "generate": ("request",), "health": (), "close": ()},
)  # fmt: skip


def make_backend(plug: Plug, machine: Machine) -> InferenceBackend:
    """The engine of one machine: a built-in's name, or a plug that makes an `InferenceBackend`."""
    backend: InferenceBackend = SERVICE.make(plug, machine)
    return backend
