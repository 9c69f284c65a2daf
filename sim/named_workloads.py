"""Workloads by name: readers of the published traces, and their synthetic twins."""

from __future__ import annotations

from collections.abc import Callable

from sim import traces, twins
from sim.data import DataMissing
from sim.plug import Plug, PlugPoint
from sim.workload import Workload


def _seeded(read: Callable[..., Workload], name: str) -> Callable[[int], Workload]:
    return lambda seed: read(name, seed=seed)


WORKLOAD = PlugPoint(
    field="workload",
    builtins={
        "azure-conv": lambda seed: traces.azure("conv"),
        "azure-code": lambda seed: traces.azure("code"),
        "mooncake": lambda seed: traces.mooncake(seed=seed),
        **{f"servegen-{model}": _seeded(traces.servegen, model) for model in traces.SERVEGEN_MODELS},
        **{f"{name}-synthetic": _seeded(twins.synthetic, name) for name in twins.TWINS},
    },
    offers=("seed",), kind=Workload,
)  # fmt: skip


def make_workload(plug: Plug, *, seed: int = 0, fallback: bool = False) -> Workload:
    """A built-in's name, a `Workload`, or a plug that makes one; with `fallback`, the synthetic twin if data is missing."""
    try:
        workload: Workload = WORKLOAD.make(plug, seed)
    except DataMissing:
        if not fallback or plug not in twins.TWINS:
            raise
        return twins.synthetic(plug, seed=seed)
    return workload
