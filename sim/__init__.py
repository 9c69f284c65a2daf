"""The world around the protocol: SimPy lives here. `from sim import Scenario, World` is all a notebook needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.scenario import Scenario as Scenario
    from sim.world import World as World

__all__ = ["Scenario", "World"]


def __getattr__(name: str) -> Any:
    """Loaded at first use: a test of the event loop needs no pandas."""
    if name == "Scenario":
        from sim.scenario import Scenario

        return Scenario
    if name == "World":
        from sim.world import World

        return World
    raise AttributeError(f"module 'sim' has no attribute {name!r}")
