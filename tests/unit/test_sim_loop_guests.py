"""The loop beside others: SimPy's own programs on the same heap, and the asyncio loop of a notebook's kernel around it."""

import asyncio
import contextlib
import itertools

import pytest
import simpy

from quiver.errors import DeadlineExceeded
from quiver.runtime import Nursery
from sim.clock import SimClock
from sim.loop import Environment


def run(story):
    env = Environment()
    return env.run_coroutine(story(env, SimClock(env)))


def test_a_native_process_and_a_coroutine_share_the_clock():
    async def story(env, clock):
        def machine():
            yield env.timeout(2.5)
            return "served"

        return await env.loop.wrap(env.process(machine())), clock.now()

    assert run(story) == ("served", 2.5)


def test_a_failing_simpy_process_raises_in_the_coroutine_that_awaits_it():
    async def story(env, clock):
        def machine():
            yield env.timeout(1)
            raise KeyError("broken")

        with pytest.raises(KeyError):
            await env.loop.wrap(env.process(machine()))

    run(story)


def test_wrap_gives_the_value_of_what_has_already_happened_and_outlives_a_cancelled_waiter():
    async def story(env, clock):
        done = env.timeout(1, value="old")
        await clock.sleep(2)
        assert await env.loop.wrap(done) == "old"

        later = env.timeout(5, value="late")
        impatient = env.loop.create_task(asyncio.wait_for(env.loop.wrap(later), 100))
        await clock.sleep(1)
        impatient.cancel()
        return await env.loop.wrap(later), clock.now()

    assert run(story) == ("late", 7)


def test_a_failing_simpy_process_that_nobody_awaits_raises_as_on_simpy():
    async def story(env, clock):
        def machine():
            yield env.timeout(1)
            raise KeyError("broken")

        env.process(machine())
        await clock.sleep(5)

    with pytest.raises(KeyError):
        run(story)


def test_it_runs_inside_another_running_loop():
    async def story(env, clock):
        await clock.sleep(5)
        return clock.now()

    async def cell():
        before = asyncio.current_task()
        result = run(story)
        assert asyncio.current_task() is before
        await asyncio.sleep(0)
        return result

    assert asyncio.run(cell()) == 5


def test_simpys_own_run_step_and_peek_work_with_both_kinds_of_entries():
    env = Environment()
    seen = []
    env.loop.call_later(1, seen.append, "timer")
    cancelled = env.loop.call_later(0.5, seen.append, "never")
    cancelled.cancel()

    def process():
        yield env.timeout(2)
        seen.append("process")

    env.process(process())
    assert env.peek() == 0
    env.step()
    assert env.peek() == 1
    env.run(until=1.5)
    assert (env.now, seen) == (1.5, ["timer"])
    env.run()
    assert seen == ["timer", "process"]
    assert env.peek() == float("inf")
    with pytest.raises(simpy.core.EmptySchedule):
        env.step()


def carwash(env, log, *, cars=4, every_s=2.0):
    """After SimPy's documentation: two machines, a wash takes 5, a few cars wait at the door, then one comes every 2."""
    machines = simpy.Resource(env, 2)

    def car(name):
        log.append((env.now, name, "arrives"))
        with machines.request() as request:
            yield request
            log.append((env.now, name, "enters"))
            yield env.timeout(5)
            log.append((env.now, name, "leaves"))

    def street():
        for number in range(cars):
            env.process(car(f"Car {number}"))
        for number in itertools.count(cars):
            yield env.timeout(every_s)
            env.process(car(f"Car {number}"))

    env.process(street())
    return machines


def test_simpys_carwash_gives_the_same_log_as_on_simpy():
    logs = []
    for env in (Environment(), simpy.Environment()):
        logs.append([])
        carwash(env, logs[-1])
        env.run(until=20)
    assert logs[0] == logs[1]
    assert len(logs[0]) > 20


def test_the_carwash_is_undisturbed_by_roles_beside_it_and_serves_them():
    alone = []
    plain = simpy.Environment()
    carwash(plain, alone)
    plain.run(until=20)

    async def story(env, clock):
        log, heard = [], []
        machines = carwash(env, log)

        async def watcher():
            """Timers, deadlines and calls at the very times of the cars."""
            while True:
                with contextlib.suppress(DeadlineExceeded):
                    async with clock.deadline(1):
                        await asyncio.Event().wait()
                env.loop.call_soon(heard.append, clock.now())

        async def customer():
            """A coroutine that queues for the same machines, after the time the log is compared for."""
            await clock.sleep(20)
            before = clock.now()
            with machines.request() as request:
                await env.loop.wrap(request)
                waited = clock.now() - before
                await clock.sleep(5)
            return waited

        async with Nursery() as nursery:
            nursery.start(watcher())
            waited = await customer()
            nursery.cancel()
        return log, heard, waited

    log, heard, waited = run(story)
    assert [line for line in log if line[0] < 20] == alone
    assert heard[:3] == [1, 2, 3]
    assert waited > 0
