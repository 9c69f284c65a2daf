"""The world around the protocol: SimPy lives here. `from sim import Scenario, World, Workload, export` is all a notebook needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sim.export import export

if TYPE_CHECKING:
    from sim.scenario import Scenario
    from sim.topology import Topology
    from sim.workload import Workload
    from sim.world import World

__all__ = ["Scenario", "Topology", "Workload", "World", "export"]
# Loaded when first named: `python -m sim list` need not wait for all of it.
_HOMES = {"Scenario": "sim.scenario", "Topology": "sim.topology", "Workload": "sim.workload", "World": "sim.world"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
