"""A node's background work."""

from __future__ import annotations

import pytest

from sim.loop import UnhandledTaskError
from sim.scenario import Scenario
from sim.world import World


def test_a_role_that_breaks_stops_the_run_at_once():
    world = World(Scenario.named("tour").replace(providers=3, duration_s=5.0, topology="synthetic"))

    async def broken():
        await world.providers[0].clock.sleep(2.5)
        raise ZeroDivisionError("a bug in a role")

    world.providers[0].spawn(broken())
    with pytest.raises(UnhandledTaskError, match=r"t = 2\.5 s.*a bug in a role"):
        world.run(progress=False)
