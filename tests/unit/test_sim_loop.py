"""The loop inside SimPy: order, errors, real I/O, deadlines, nurseries."""

import asyncio
import socket

import pytest

from quiver.errors import DeadlineExceeded, UsageError
from quiver.runtime import Deadline, Nursery, race
from sim.clock import EPOCH_MS, SimClock
from sim.loop import Deadlock, Environment, Livelock, SimLoop, UnhandledTaskError


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


def test_call_soon_runs_before_the_next_entry_of_the_same_instant():
    async def story(env, clock):
        seen = []

        def first():
            seen.append("first")
            env.loop.call_soon(seen.append, "soon")

        env.loop.call_later(1, first)
        env.loop.call_later(1, seen.append, "second")
        await clock.sleep(2)
        return seen

    assert run(story) == ["first", "soon", "second"]


def test_a_timer_handle_is_the_heap_entry():
    env = Environment()
    handle = env.loop.call_later(3, print)
    assert env._queue[0][3] is handle
    assert handle.when() == 3


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


def test_an_error_nobody_awaited_is_raised_although_somebody_keeps_the_task():
    kept = []

    async def story(env, clock):
        async def broken():
            await clock.sleep(1)
            raise ValueError("lost")

        kept.append(env.loop.create_task(broken()))
        kept[0].add_done_callback(env.loop.raise_error_of)
        await clock.sleep(10)

    with pytest.raises(UnhandledTaskError, match=r"t = 1\.0 s.*lost"):
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


def test_every_way_out_of_the_simulation_is_refused_by_name():
    """Whatever asyncio adds to its loop is either answered by ours or refused, never a silent NotImplementedError."""
    known = {
        # Settings and endings that no protocol code calls; asyncio's own classes don't either.
        "close", "get_exception_handler", "get_task_factory", "set_debug", "set_exception_handler", "set_task_factory",
        "shutdown_asyncgens", "shutdown_default_executor",
    }  # fmt: skip
    base = asyncio.AbstractEventLoop
    names = {name for name in vars(base) if not name.startswith("_") and getattr(base, name) is getattr(SimLoop, name)}
    assert names == known
    refused = [name for name in vars(base) if getattr(getattr(SimLoop, name), "__name__", "") == "refuse"]
    assert {"run_in_executor", "getaddrinfo", "create_connection", "sock_recv", "subprocess_exec"} <= set(refused)
    loop = Environment().loop
    for name in refused:
        with pytest.raises(UsageError, match=f"^{name}: a simulated node has no sockets, threads or processes"):
            getattr(loop, name)()


def test_cancelled_timers_do_not_pile_up_in_the_heap():
    async def story(env, clock):
        for _ in range(20_000):
            env.loop.call_later(1e6, print).cancel()
        return len(env._queue)

    assert run(story) < 3_000


def test_live_timers_survive_the_compaction_in_their_order():
    async def story(env, clock):
        seen = []
        for number in range(10):
            env.loop.call_later(10 - number, seen.append, number)
        for _ in range(20_000):
            env.loop.call_later(5, seen.append, "cancelled").cancel()
        await clock.sleep(11)
        return seen

    assert run(story) == list(range(9, -1, -1))


def test_close_ends_tasks_in_the_order_of_their_numbers_then_of_their_names():
    """asyncio numbers tasks over the whole process: Task-9 and Task-10 must not swap because of what ran before."""
    env, ended = Environment(), []

    async def worker(name):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    for name in ("Task-10", "node-1/0", "Task-9", "Task-1000000000", "node-0/0"):
        env.loop.create_task(worker(name), name=name)
    env.run(until=1)
    env.close()
    assert ended == ["Task-9", "Task-10", "Task-1000000000", "node-0/0", "node-1/0"]


def test_an_abandoned_generator_is_closed_on_the_loop():
    async def story(env, clock):
        closed = []

        async def pieces():
            try:
                yield 1
            finally:
                await clock.sleep(3)
                closed.append(clock.now())

        async for _ in pieces():
            break
        await clock.sleep(10)
        return closed

    assert run(story) == [3]


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
