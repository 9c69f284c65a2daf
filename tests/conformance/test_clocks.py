"""What every `Clock` must do, on the live one and the simulated one."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import DeadlineExceeded
from quiver.live.clock import LiveClock
from sim.clock import SimClock
from sim.loop import Environment


def live(story):
    asyncio.run(story(LiveClock()))


def simulated(story):
    env = Environment()
    env.run_coroutine(story(SimClock(env, offset_ms=250.0)))


@pytest.fixture(params=[live, simulated], ids=["live", "simulated"])
def run(request):
    return request.param


def test_sleep_takes_at_least_its_time_on_both_scales(run):
    async def story(clock):
        now, utc_ms = clock.now(), clock.utc_ms()
        await clock.sleep(0.02)
        assert clock.now() - now >= 0.02
        assert clock.utc_ms() - utc_ms >= 19

    run(story)


def test_a_sleep_of_nothing_still_yields_once(run):
    async def story(clock):
        seen = []

        async def other():
            seen.append("other")

        task = asyncio.get_running_loop().create_task(other())
        await clock.sleep(0)
        seen.append("me")
        await task
        assert seen == ["other", "me"]

    run(story)


def test_a_deadline_interrupts_its_body_and_nothing_after_it(run):
    async def story(clock):
        with pytest.raises(DeadlineExceeded):
            async with clock.deadline(0.01):
                await asyncio.Event().wait()
        await clock.sleep(0.02)

    run(story)


def test_a_body_that_is_done_in_time_is_left_alone(run):
    async def story(clock):
        async with clock.deadline(5.0):
            await clock.sleep(0.001)

    run(story)


def test_the_inner_of_two_deadlines_ends_only_its_own_body(run):
    async def story(clock):
        async with clock.deadline(5.0):
            with pytest.raises(DeadlineExceeded):
                async with clock.deadline(0.01):
                    await clock.sleep(4.0)
            await clock.sleep(0.001)

    run(story)


def test_the_outer_of_two_deadlines_passes_through_the_inner(run):
    async def story(clock):
        with pytest.raises(DeadlineExceeded):
            async with clock.deadline(0.01):
                async with clock.deadline(5.0):
                    await clock.sleep(4.0)

    run(story)
