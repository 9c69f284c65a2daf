"""The loop inside SimPy: order, errors, real I/O, notebooks, SimPy's own programs."""

import asyncio
import socket

import pytest
import simpy

from quiver.errors import DeadlineExceeded, UsageError
from quiver.runtime import Deadline, Nursery, race
from sim.clock import EPOCH_MS, SimClock
from sim.loop import Deadlock, Environment, Livelock, UnhandledTaskError


def run(story):
    env = Environment()
    return env.run_coroutine(story(env, SimClock(env)))


def test_sleep_moves_virtual_time_only():
    async def story(env, clock):
        await clock.sleep(3600.5)
        return clock.now(), clock.utc_ms()

    assert run(story) == (3600.5, EPOCH_MS + 3_600_500)


def test_same_time_runs_in_order_of_scheduling():
    async def story(env, clock):
        seen = []
        env.loop.call_later(1, seen.append, "timer")
        env.loop.deliver_at(1, seen.append, "call")
        env.timeout(1).callbacks.append(lambda _: seen.append("simpy"))
        env.loop.call_soon(seen.append, "soon")
        await clock.sleep(2)
        return seen

    assert run(story) == ["soon", "timer", "call", "simpy"]


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


def test_a_wait_that_nothing_can_end_is_a_deadlock():
    async def story(env, clock):
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="nothing is scheduled"):
        run(story)


def test_an_error_nobody_awaited_is_raised():
    async def story(env, clock):
        async def broken():
            raise ValueError("lost")

        env.loop.create_task(broken())
        await clock.sleep(10)

    with pytest.raises(UnhandledTaskError, match="lost"):
        run(story)


def test_an_instant_that_does_not_end_is_a_livelock(monkeypatch):
    monkeypatch.setattr("sim.loop.INSTANT_CALLS_MAX", 1000)

    async def soon(env, clock):
        def again():
            env.loop.call_soon(again)

        again()
        await clock.sleep(1)

    async def timers(env, clock):
        def again():
            env.loop.deliver_at(env.now, again)

        again()
        await clock.sleep(1)

    for story in (soon, timers):
        with pytest.raises(Livelock):
            run(story)


def test_real_io_is_refused():
    async def story(env, clock):
        loop = asyncio.get_running_loop()
        with pytest.raises(UsageError, match="no sockets"):
            await loop.run_in_executor(None, print)
        with pytest.raises(UsageError):
            await asyncio.to_thread(print)
        with pytest.raises(UsageError):
            await asyncio.open_connection("127.0.0.1", 9)
        with pytest.raises(UsageError):
            await loop.getaddrinfo("localhost", 80)
        with socket.socket() as sock, pytest.raises(UsageError):
            loop.add_reader(sock, print)

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


def test_cancelled_timers_do_not_pile_up_in_the_heap():
    async def story(env, clock):
        for _ in range(20_000):
            env.loop.call_later(1e6, print).cancel()
        return len(env._queue)

    assert run(story) < 3_000


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


def carwash(env):
    """SimPy's documentation example: two machines, a wash takes 5, cars come every 2 (fixed here)."""
    log = []
    machines = simpy.Resource(env, 2)

    def car(name):
        log.append((env.now, name, "arrives"))
        with machines.request() as request:
            yield request
            log.append((env.now, name, "enters"))
            yield env.timeout(5)
            log.append((env.now, name, "leaves"))

    def setup():
        for i in range(4):
            env.process(car(f"Car {i}"))
        i = 3
        while True:
            yield env.timeout(2)
            i += 1
            env.process(car(f"Car {i}"))

    env.process(setup())
    env.run(until=20)
    return log


def test_simpys_carwash_gives_the_same_log_as_on_simpy():
    log = carwash(Environment())
    assert log == carwash(simpy.Environment())
    assert len(log) > 20


def test_a_deadline_becomes_an_error_and_an_outer_cancel_stays_a_cancel():
    async def story(env, clock):
        with pytest.raises(DeadlineExceeded):
            async with clock.deadline(2):
                await clock.sleep(3)
        assert clock.now() == 2

        async def patient():
            async with Deadline(100):
                await clock.sleep(50)

        task = env.loop.create_task(patient())
        await clock.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with clock.deadline(5):
            await clock.sleep(1)
        return clock.now()

    assert run(story) == 4


def test_a_nursery_cancels_in_the_order_of_starting_and_raises_the_first_error():
    async def story(env, clock):
        ended = []

        async def child(name):
            try:
                await clock.sleep(100)
            finally:
                ended.append(name)

        async def failing():
            await clock.sleep(1)
            raise ValueError("first")

        with pytest.raises(ValueError, match="first"):
            async with Nursery() as nursery:
                for name in "cab":
                    nursery.start(child(name))
                nursery.start(failing())
                await clock.sleep(50)
        return ended, clock.now()

    assert run(story) == (["c", "a", "b"], 1)


def test_a_race_gives_the_lower_position_at_a_tie_and_cancels_the_rest():
    async def story(env, clock):
        async def after(delay, value):
            await clock.sleep(delay)
            return value

        assert await race(after(2, "a"), after(1, "b")) == (1, "b")
        assert await race(after(1, "a"), after(1, "b")) == (0, "a")
        return clock.now()

    assert run(story) == 2
