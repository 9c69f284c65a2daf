"""The world around the protocol: SimPy lives here."""

from sim.scenario import Scenario
from sim.world import World

__all__ = ["Scenario", "World"]
