"""Timeouts in one queue a duration: each fires at its own time, and nothing stays scheduled for those that are done."""

import math

import pytest

from quiver.errors import DeadlineExceeded
from sim.clock import SimClock
from sim.loop import Environment
from sim.timeouts import Timeouts


def test_each_fires_at_its_own_time_and_the_done_ones_never():
    env = Environment()
    clock, timeouts = SimClock(env), Timeouts(env.loop)
    fired = []

    async def wait(number, *, answered):
        future = env.loop.create_future()
        timeouts[5.0].add(future)
        if answered:
            future.set_result(number)
        try:
            await future
        except DeadlineExceeded:
            fired.append((number, clock.now()))
        finally:
            timeouts.on_done(5.0)

    async def story():
        tasks = []
        for number in range(4):
            tasks.append(env.loop.create_task(wait(number, answered=number == 1)))
            await clock.sleep(1.0)
        for task in tasks:
            await task

    env.run_coroutine(story())
    assert fired == [(0, 5.0), (2, 7.0), (3, 8.0)]
    assert not timeouts and env.peek() == math.inf


def test_nothing_stays_scheduled_when_all_are_done():
    env = Environment()
    timeouts = Timeouts(env.loop)

    async def story():
        futures = [env.loop.create_future() for _ in range(3)]
        for future in futures:
            timeouts[2.0].add(future)
        futures[2].cancel()
        timeouts.on_done(2.0)
        assert env.peek() == 2.0
        for future in futures[:2]:
            future.set_result(None)
            timeouts.on_done(2.0)
        assert not timeouts

    env.run_coroutine(story())
    assert env.peek() == math.inf
    assert env.now == 0.0


def test_durations_do_not_wait_for_each_other():
    env = Environment()
    clock, timeouts = SimClock(env), Timeouts(env.loop)

    async def story():
        slow, quick = env.loop.create_future(), env.loop.create_future()
        timeouts[9.0].add(slow)
        timeouts[1.0].add(quick)
        with pytest.raises(DeadlineExceeded, match="within 1 s"):
            await quick
        assert clock.now() == 1.0
        with pytest.raises(DeadlineExceeded, match="within 9 s"):
            await slow
        assert clock.now() == 9.0

    env.run_coroutine(story())
