"""A deadline that moves, and what it leaves behind."""

from __future__ import annotations

import gc
import weakref

import pytest

from quiver.runtime import Alarm
from sim.loop import Environment


class Owner:
    """Holds its alarm, as requests do."""

    def __init__(self, env: Environment) -> None:
        self.rung_s: list[float] = []
        self.env = env
        self.alarm = Alarm(env.loop, self.on_expired)

    def on_expired(self) -> None:
        self.rung_s.append(self.env.now)


@pytest.fixture
def env():
    return Environment()


def test_it_moves_both_ways(env):
    """Set to 5 s, moved to 8 s: 8 s. Set to 20 s, moved to 10 s: 10 s."""
    owner = Owner(env)
    owner.alarm.set(5.0)
    owner.alarm.set(8.0)
    env.run(until=9.0)
    owner.alarm.set(11.0)
    owner.alarm.set(1.0)
    env.run(until=30.0)
    assert owner.rung_s == [8.0, 10.0]


def test_cancelled_it_never_rings(env):
    owner = Owner(env)
    owner.alarm.set(5.0)
    owner.alarm.cancel()
    env.run(until=10.0)
    assert owner.rung_s == []


@pytest.mark.parametrize("is_set", [True, False])
def test_who_cancels_its_alarm_is_freed_without_the_cyclic_collector(env, is_set):
    """Each request has two; waiting for the collector, those of thousands of requests stayed in memory."""
    owner = Owner(env)
    if is_set:
        owner.alarm.set(5.0)
    owner.alarm.cancel()
    gone = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        assert gone() is None
    finally:
        gc.enable()
