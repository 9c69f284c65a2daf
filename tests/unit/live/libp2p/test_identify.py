"""identify against peers that answer late, wrongly or never: no stream and no task is left behind."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import DeadlineExceeded, MalformedMessage, PeerError
from quiver.identity.keys import KeyPair
from quiver.live.libp2p.identify import ASK, PUSH, TIMEOUT_S, IdentifyService
from quiver.values.identify import Identify
from quiver.wire.identify import MESSAGES_MAX
from tests.unit.quic.story import links, tell


def identify(net, node):
    return IdentifyService(
        node,
        KeyPair(bytes([9]) * 32),
        net.clock,
        protocols=lambda: ["/x"],
        observed=lambda peer: None,
        loop=net.env.loop,
    )


async def say_nothing(stream):
    await asyncio.Event().wait()


async def say_too_much(stream):
    for _ in range(MESSAGES_MAX + 1):
        await stream.send(Identify(protocols=("/x",)))
    await asyncio.Event().wait()


async def say_something_and_stop(stream):
    await stream.send(Identify(protocols=("/x",)))
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("serve", "error"),
    [
        (say_nothing, DeadlineExceeded),
        (say_something_and_stop, DeadlineExceeded),
        (say_too_much, MalformedMessage),
    ],
)
def test_a_question_that_comes_to_nothing_leaves_no_stream(serve, error):
    async def story(net, a, b):
        service = identify(net, a)
        b.serve(ASK, serve)
        with pytest.raises(error):
            await service.ask(b.peer_id)
        await net.settle(0.1)
        assert a.quota.streams_open[1] == 0 and links(b)[0].driver.streams_open == 0 and not service._questions

    tell(story)


def test_a_question_whose_asker_left_fails_in_silence():
    async def story(net, a, b):
        service = identify(net, a)
        b.serve(ASK, say_nothing)
        asking = net.env.loop.create_task(service.ask(b.peer_id))
        await net.settle(1.0)
        asking.cancel()
        # The simulated loop raises an error that nobody has taken.
        await net.settle(TIMEOUT_S)
        assert not service._questions and a.quota.streams_open[1] == 0

    tell(story)


def test_a_question_under_way_ends_with_the_service():
    async def story(net, a, b):
        service = identify(net, a)
        b.serve(ASK, say_nothing)
        service.ask_soon(b.peer_id)
        await net.settle(1.0)
        await service.close()
        await net.settle(0.1)
        assert not service._questions and a.quota.streams_open[1] == 0 and links(b)[0].driver.streams_open == 0

    tell(story)


def test_a_push_that_does_not_end_is_given_up():
    async def story(net, a, b):
        identify(net, a)
        stream = await b.open(a.peer_id, PUSH, timeout_s=5)
        await stream.send(Identify(protocols=("/x",)))
        with pytest.raises(PeerError):
            await stream.receive()
        assert a.quota.streams_open == (0, 0)

    tell(story)
