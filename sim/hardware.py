"""Speeds of machines that serve an 8B model in Q4_K_M (4.6 GiB), where each number comes from, and pools of machines.

Rules of this file: a number without a measurement behind it is named in `estimated`, and figures must not quote it as fact.
The model: prefill of n tokens = n / prefill_tps + quadratic_s n^2; one decode step with k streams of mean context c =
(1 / decode_tps + context_s c) (1 + alpha (k - 1)); cold load = load_s; a request's own noise is log-normal(sigma).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from quiver.errors import UsageError
from sim.plug import Plug, PlugPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """One kind of machine."""

    name: str
    prefill_tps: float
    "R0, tokens per second."
    quadratic_s: float
    "b, seconds per squared prompt token: attention."
    decode_tps: float
    "r0, tokens per second of one stream at empty context."
    context_s: float
    "d, seconds per token of context and step."
    alpha: float
    "Slow-down of a step per further stream."
    load_s: float
    "Cold load of the model."
    sigma: float
    "Log-standard deviation of the noise of one request."
    slots: int
    "Streams it serves at once by default."
    source: str
    estimated: frozenset[str] = frozenset()

    def prefill_s(self, tokens: float) -> float:
        """Prefill of `tokens` on an idle machine."""
        return tokens / self.prefill_tps + self.quadratic_s * tokens * tokens

    def step_s(self, streams: int, mean_context: float) -> float:
        """One decode step."""
        return (1 / self.decode_tps + self.context_s * mean_context) * (1 + self.alpha * (streams - 1))

    def sample(self, count: int, rng: random.Random) -> list[HardwareProfile]:
        """A profile is a pool of machines that are all like it."""
        return [self] * count

    def for_model(self, *, weight_ratio: float) -> HardwareProfile:
        """The same machine with a model of `weight_ratio` times the active weights: speeds inversely proportional."""
        if weight_ratio <= 0:
            raise UsageError(f"weight_ratio {weight_ratio} must be positive")
        return replace(
            self, name=f"{self.name} x{weight_ratio:g}", prefill_tps=self.prefill_tps / weight_ratio,
            quadratic_s=self.quadratic_s * weight_ratio, decode_tps=self.decode_tps / weight_ratio,
            context_s=self.context_s * weight_ratio, load_s=self.load_s * weight_ratio,
            source=f"{self.source}; scaled by active weights", estimated=self.estimated | {"prefill_tps", "decode_tps"},
        )  # fmt: skip


_GPU_TABLE = "XiongjieDai/GPU-Benchmarks-on-LLM-Inference, 8B Q4_K_M"
_KHMEL = "pavlokhmel.com 2026, Qwen3.5-9B Q4"
_LOCALSCORE = (
    "LocalScore crowd medians, Llama-3.1 8B Q4; context, batching and load borrowed from the profile of its class"
)
_SLOTS_GPU, _SLOTS_SHARED, _SLOTS_CPU = 16, 8, 2


def _profile(
    name: str,
    speeds: tuple[float, float, float, float, float, float],
    source: str,
    estimated: str,
    *,
    cpu: bool = False,
) -> HardwareProfile:
    prefill_tps, quadratic_s, decode_tps, context_s, alpha, load_s = speeds
    slots = _SLOTS_CPU if cpu else _SLOTS_GPU if alpha <= 0.15 else _SLOTS_SHARED
    return HardwareProfile(
        name=name, prefill_tps=prefill_tps, quadratic_s=quadratic_s, decode_tps=decode_tps, context_s=context_s,
        alpha=alpha, load_s=load_s, sigma=0.2 if cpu else 0.05, slots=slots, source=source,
        estimated=frozenset([*estimated.split(), "sigma", "slots"]),
    )  # fmt: skip


_BORROWED = "quadratic_s context_s alpha load_s"
_ROWS = (
    _profile("cpu-2core", (70, 2e-6, 4.8, 5e-6, 0.5, 8.0), "blog.victorbona.dev, 2 threads, 7B/8B Q4_K_M",
             "quadratic_s context_s", cpu=True),
    _profile("cpu-desktop", (130, 1e-6, 11, 3e-6, 0.7, 4.0), "ik_llama.cpp PR 533, Ryzen 7950X Q4_0; ai-ollama.github.io",
             "quadratic_s context_s alpha", cpu=True),
    _profile("cpu-server", (300, 5e-7, 45, 1e-6, 0.3, 3.0), "ahelpme.com, EPYC 9554, Phi-4 14B scaled to 8B",
             "prefill_tps quadratic_s decode_tps context_s alpha", cpu=True),
    _profile("gpu-3060-class", (1500, 3e-8, 40, 6e-7, 0.25, 4.0), "autolearningagents.com, 3060 and 4060 Ti, 8B Q4",
             "prefill_tps quadratic_s context_s alpha"),
    _profile("gpu-3090", (4200, 1.9e-8, 118, 7.2e-7, 0.15, 3.0), _GPU_TABLE, "alpha"),
    _profile("gpu-4090", (7500, 1.4e-8, 132, 3.6e-7, 0.15, 2.5), f"{_GPU_TABLE}; {_KHMEL}", "alpha"),
    _profile("gpu-a100-80", (5500, 1e-8, 130, 3e-7, 0.10, 4.0), f"LLaMA-2 7B q4_0 (tg 136, pp 3444); {_KHMEL}",
             "prefill_tps quadratic_s context_s alpha"),
    _profile("gpu-h100", (9000, 8e-9, 190, 2e-7, 0.08, 4.0), _KHMEL, "prefill_tps quadratic_s context_s alpha"),
    _profile("apple-m2-ultra", (1000, 1.2e-9, 81, 1.5e-6, 0.3, 3.0), _GPU_TABLE, "alpha"),
    _profile("localscore-rtx-4090", (6657, 1.4e-8, 84, 3.6e-7, 0.15, 2.5), _LOCALSCORE, _BORROWED),
    _profile("localscore-rtx-3090", (3641, 1.9e-8, 103, 7.2e-7, 0.15, 3.0), _LOCALSCORE, _BORROWED),
    _profile("localscore-rtx-4070-ti", (3950, 1.9e-8, 69, 6e-7, 0.2, 3.0), _LOCALSCORE, _BORROWED),
    _profile("localscore-rtx-3060", (1484, 3e-8, 51, 6e-7, 0.25, 4.0), _LOCALSCORE, _BORROWED),
    _profile("localscore-m4-max", (630, 1.2e-9, 53, 1.5e-6, 0.3, 3.0), _LOCALSCORE, _BORROWED),
    _profile("localscore-m1-pro", (173, 1.2e-9, 20, 1.5e-6, 0.3, 4.0), _LOCALSCORE, _BORROWED),
    _profile("localscore-ryzen-5950x", (90, 1e-6, 7.8, 3e-6, 0.7, 4.0), _LOCALSCORE, _BORROWED, cpu=True),
    _profile("localscore-intel-cpu", (23, 2e-6, 6.5, 5e-6, 0.7, 8.0), _LOCALSCORE, _BORROWED, cpu=True),
)  # fmt: skip

PROFILES: Mapping[str, HardwareProfile] = {profile.name: profile for profile in _ROWS}

POOLS: Mapping[str, Mapping[str, float]] = {
    # Shares are assumptions: no census of machines that would join an open inference network was found.
    "consumer": {
        "localscore-rtx-4090": 0.15, "localscore-rtx-3090": 0.15, "localscore-rtx-4070-ti": 0.15,
        "localscore-rtx-3060": 0.25, "localscore-m4-max": 0.10, "localscore-m1-pro": 0.10,
        "localscore-ryzen-5950x": 0.10,
    },
    "datacentre": {"gpu-a100-80": 0.6, "gpu-h100": 0.4},
    "mixed": {"gpu-h100": 0.1, "gpu-a100-80": 0.2, "gpu-4090": 0.25, "gpu-3090": 0.25, "gpu-3060-class": 0.2},
}  # fmt: skip


def profile(name: str) -> HardwareProfile:
    """A profile by name; `UsageError` lists them."""
    if name not in PROFILES:
        raise UsageError(f"no hardware profile is called {name!r}; there are: {', '.join(sorted(PROFILES))}")
    return PROFILES[name]


class Pool(Protocol):
    """The plug point: which machines the providers have."""

    def sample(self, count: int, rng: random.Random) -> Sequence[HardwareProfile]:
        """`count` machines, one a provider."""


class Shares(NamedTuple):
    """A pool by the share of each profile."""

    weights: Mapping[str, float]
    "Profile name -> weight; they need not add up to 1."

    def sample(self, count: int, rng: random.Random) -> list[HardwareProfile]:
        """Independent draws."""
        names = sorted(self.weights)
        return [profile(name) for name in rng.choices(names, [self.weights[name] for name in names], k=count)]


def _maker(pool: Pool) -> Callable[[], Pool]:
    return lambda: pool


HARDWARE = PlugPoint(
    field="hardware",
    builtins={name: _maker(Shares(POOLS[name])) for name in POOLS}
    | {name: _maker(PROFILES[name]) for name in PROFILES},
    methods={"sample": ("count", "rng")},
)


def sample_pool(count: int, rng: random.Random, pool: Plug = "consumer") -> list[HardwareProfile]:
    """`count` machines of a pool: a pool's name, a profile's name, a `HardwareProfile`, or a plug with `sample`."""
    machines = list(HARDWARE.make(pool).sample(count, rng))
    wrong = next((machine for machine in machines if not isinstance(machine, HardwareProfile)), None)
    if len(machines) != count or wrong is not None:
        raise UsageError(
            f"scenario field hardware: sample({count}, rng) returned {len(machines)} machines"
            + (f", among them a {type(wrong).__name__}" if wrong is not None else "")
            + f"; it must return {count} HardwareProfiles"
        )
    return machines
