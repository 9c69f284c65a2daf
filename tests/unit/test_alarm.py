"""Deadlines that move, of many owners with one timer, and what they leave behind."""

from __future__ import annotations

import gc
import weakref

import pytest

from quiver.runtime import Alarms
from sim.loop import Environment


class Owner:
    """Holds the alarms it sets, as requests do."""

    def __init__(self, env: Environment, alarms: Alarms) -> None:
        self.rung_s: list[float] = []
        self.env, self.alarms = env, alarms

    def on_alarm(self) -> None:
        self.rung_s.append(self.env.now)


@pytest.fixture
def env():
    return Environment()


@pytest.fixture
def alarms(env):
    return Alarms(env.loop)


def test_it_moves_both_ways(env, alarms):
    """Set to 5 s, moved to 8 s: 8 s. Set to 20 s, moved to 10 s: 10 s."""
    owner = Owner(env, alarms)
    alarms.set(owner, 5.0)
    alarms.set(owner, 8.0)
    env.run(until=9.0)
    alarms.set(owner, 11.0)
    alarms.set(owner, 1.0)
    env.run(until=30.0)
    assert owner.rung_s == [8.0, 10.0]


def test_each_rings_at_its_own_time_and_one_that_was_cancelled_never(env, alarms):
    owners = [Owner(env, alarms) for _ in range(4)]
    for owner, seconds in zip(owners, (3.0, 1.0, 2.0, 1.0), strict=True):
        alarms.set(owner, seconds)
    alarms.cancel(owners[2])
    env.run(until=10.0)
    assert [owner.rung_s for owner in owners] == [[3.0], [1.0], [], [1.0]]


def test_one_that_rings_may_cancel_and_set_others(env, alarms):
    """Both are due at 1 s: the first cancels the second, and sets a third to 1 s later."""
    first, second, third = (Owner(env, alarms) for _ in range(3))

    def ring() -> None:
        first.rung_s.append(env.now)
        alarms.cancel(second)
        alarms.set(third, 1.0)

    first.on_alarm = ring
    alarms.set(first, 1.0)
    alarms.set(second, 1.0)
    env.run(until=10.0)
    assert [owner.rung_s for owner in (first, second, third)] == [[1.0], [], [2.0]]


def test_a_thousand_waits_in_a_row_are_one_timer(env, alarms):
    owners = [Owner(env, alarms) for _ in range(1_000)]
    for owner in owners:
        alarms.set(owner, 5.0)
        alarms.cancel(owner)
    assert len(env._queue) == 1


@pytest.mark.parametrize("is_set", [True, False])
def test_who_cancels_its_alarm_is_freed_without_the_cyclic_collector(env, alarms, is_set):
    """Each request has two; waiting for the collector, those of thousands of requests stayed in memory."""
    owner = Owner(env, alarms)
    if is_set:
        alarms.set(owner, 5.0)
    alarms.cancel(owner)
    gone = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        assert gone() is None
    finally:
        gc.enable()
