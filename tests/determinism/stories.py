"""Small concurrent programs on the simulated loop; each returns the order in which things happened, with times.

`python -m tests.determinism.stories` prints all as JSON. asyncio's own order changed between Pythons (since 3.12 `gather`
does not pause when everything is done), so every interpreter must tell the same stories.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from quiver.errors import DeadlineExceeded
from quiver.runtime import Nursery, race
from sim.clock import SimClock
from sim.loop import Environment

Log = list[tuple[float, str]]
Story = Callable[[SimClock, Callable[[str], None]], Coroutine[Any, Any, None]]


async def nursery_ends_when_its_last_child_has_just_ended(clock: SimClock, say: Callable[[str], None]) -> None:
    """The child wakes its owner and is done before the nursery hears of it."""
    told = asyncio.Event()

    async def child() -> None:
        await clock.sleep(1)
        told.set()
        say("child")

    async def bystander() -> None:
        await told.wait()
        say("bystander")

    beside = asyncio.get_running_loop().create_task(bystander())
    async with Nursery() as nursery:
        nursery.start(child())
        await told.wait()
        say("body")
    say("after")
    await beside


async def race_in_which_all_arrive_at_once(clock: SimClock, say: Callable[[str], None]) -> None:
    """All are done when the race is decided; who counts the turns of the loop sees when its caller goes on."""
    start = asyncio.Event()
    loop = asyncio.get_running_loop()

    def count(turn: int) -> None:
        say(f"turn {turn}")
        if turn < 8:
            loop.call_soon(count, turn + 1)

    async def runner(name: str) -> str:
        await start.wait()
        say(name)
        return name

    def begin() -> None:
        start.set()
        count(1)

    loop.call_later(1, begin)
    position, name = await race(runner("a"), runner("b"), runner("c"))
    say(f"{position} {name}")
    await clock.sleep(1)


async def race_whose_losers_clean_up(clock: SimClock, say: Callable[[str], None]) -> None:
    """Losers are cancelled and awaited in order."""

    async def runner(name: str, delay_s: float) -> str:
        try:
            await clock.sleep(delay_s)
        finally:
            say(f"{name} ends")
        return name

    position, name = await race(runner("slow", 9), runner("quick", 1), runner("middle", 5))
    say(f"{position} {name}")


async def deadline_and_cancel_in_one_instant(clock: SimClock, say: Callable[[str], None]) -> None:
    """An outer cancel at the very time of the deadline: one of them is told, and later awaits work."""

    async def worker() -> None:
        try:
            async with clock.deadline(2):
                await clock.sleep(10)
        except DeadlineExceeded:
            say("deadline")
        except asyncio.CancelledError:
            say("cancelled")
            task = asyncio.current_task()
            assert task is not None
            say(f"uncancelled to {task.uncancel()}")
        await clock.sleep(1)
        say("works on")

    task = asyncio.get_running_loop().create_task(worker())
    await clock.sleep(2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    say(f"cancelled: {task.cancelled()}")


async def nursery_cancelled_while_children_clean_up(clock: SimClock, say: Callable[[str], None]) -> None:
    """Cancelled twice: children hear it twice, in order, and the owner ends last."""

    async def child(name: str) -> None:
        for _ in range(2):
            try:
                await clock.sleep(100)
            except asyncio.CancelledError:
                say(f"{name} cancelled")

    async def owner() -> None:
        async with Nursery() as nursery:
            for name in "ba":
                nursery.start(child(name))

    task = asyncio.get_running_loop().create_task(owner())
    for _ in range(2):
        await clock.sleep(1)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    say(f"owner cancelled: {task.cancelled()}")


async def nursery_with_a_failing_child(clock: SimClock, say: Callable[[str], None]) -> None:
    """The first failure cancels the others and the body."""

    async def child(name: str) -> None:
        try:
            await clock.sleep(100)
        finally:
            say(f"{name} ends")

    async def failing() -> None:
        await clock.sleep(1)
        raise KeyError("first")

    try:
        async with Nursery() as nursery:
            nursery.start(child("b"))
            nursery.start(failing())
            nursery.start(child("a"))
            await clock.sleep(50)
    except KeyError as error:
        say(f"failed: {error}")


async def queue_lock_and_gather(clock: SimClock, say: Callable[[str], None]) -> None:
    """The asyncio that protocol code may use."""
    queue: asyncio.Queue[str] = asyncio.Queue(1)
    lock = asyncio.Lock()

    async def producer(name: str) -> None:
        for number in range(3):
            async with lock:
                await queue.put(f"{name}{number}")

    async def consumer() -> None:
        for _ in range(6):
            say(await queue.get())

    await asyncio.gather(producer("x"), producer("y"), consumer())


STORIES: tuple[Story, ...] = (
    nursery_ends_when_its_last_child_has_just_ended,
    race_in_which_all_arrive_at_once,
    race_whose_losers_clean_up,
    deadline_and_cancel_in_one_instant,
    nursery_cancelled_while_children_clean_up,
    nursery_with_a_failing_child,
    queue_lock_and_gather,
)


def tell(story: Story) -> Log:
    """What happened, each line with its simulated time."""
    env, log = Environment(), []
    clock = SimClock(env)
    env.run_coroutine(story(clock, lambda text: log.append((clock.now(), text))))
    return log


if __name__ == "__main__":
    sys.stdout.write(json.dumps({story.__name__: tell(story) for story in STORIES}))
