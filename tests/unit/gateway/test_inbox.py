"""Frames between the shared reader and one client."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import DeadlineExceeded, Unavailable
from quiver.gateway.inbox import RequestInbox
from quiver.ids import RequestId
from quiver.runtime import Alarms
from quiver.values.frames import End
from sim.loop import Environment

FRAME = End(
    request_id=RequestId(bytes(16)), done_reason="stop", prompt_tokens=0, completion_tokens=0, chunks=0, queue_s=0
)


@pytest.fixture
def env():
    return Environment()


def make_inbox(env: Environment) -> RequestInbox:
    return RequestInbox(frames_max=1, request_hash=bytes(32), loop=env.loop, alarms=Alarms(env.loop))


def test_a_full_inbox_says_no_but_the_last_frame_always_has_a_place(env):
    inbox = make_inbox(env)
    assert inbox.put(FRAME) and not inbox.put(FRAME)
    inbox.ended = True
    assert inbox.put(FRAME)


def test_a_cancelled_inbox_takes_everything_and_keeps_nothing(env):
    inbox = make_inbox(env)
    inbox.cancelled = True
    assert [inbox.put(FRAME) for _ in range(3)] == [True] * 3 and inbox.take() is None


def test_every_wait_has_its_own_patience(env):
    """Frames 3 s apart, patience 4 s: none is late, though the waits together take longer; then one of 1 s is."""
    inbox = make_inbox(env)

    async def reader() -> list[float]:
        for _ in range(5):
            await inbox.get(4.0)
        with pytest.raises(DeadlineExceeded):
            await inbox.get(1.0)
        late_s = env.now
        with pytest.raises(DeadlineExceeded):
            await inbox.get(2.0)
        return [late_s, env.now]

    async def writer() -> None:
        for _ in range(5):
            await asyncio.sleep(3.0)
            assert inbox.put(FRAME)

    env.loop.create_task(writer())
    assert env.run_coroutine(reader()) == [16.0, 18.0]


def test_a_failed_request_gives_what_came_before_and_then_the_error(env):
    inbox = make_inbox(env)
    inbox.put(FRAME)
    inbox.fail(Unavailable("the connection ended"))

    async def reader() -> None:
        assert await inbox.get(1.0) is FRAME
        with pytest.raises(Unavailable):
            await inbox.get(1.0)

    env.run_coroutine(reader())
