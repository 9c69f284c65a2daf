"""Questions beyond a peer's rate: refused with their code, counted, and nobody else waits for them."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import StreamReset, WireCode
from quiver.quic.limits import NodeLimits, Quota, Refusal
from quiver.quic.rate import Bucket, Buckets, Rate
from tests.conformance.transport_suite import ECHO, OTHER, Note
from tests.unit.quic.story import links, tell


def slow(node, burst=5, per_s=1.0):
    node.quota._rpcs = Buckets(Rate(burst=burst, per_s=per_s))


async def ask(a, b, protocol=ECHO):
    """True if it was answered."""
    try:
        return (await a.rpc(b.peer_id, protocol, Note(number=1), timeout_s=5)).number == 1
    except StreamReset as error:
        assert error.code == WireCode.RESOURCE_LIMIT
        return False


def test_excess_is_refused_and_counted_and_the_rate_comes_back():
    async def story(net, a, b):
        slow(b)
        assert [await ask(a, b) for _ in range(7)] == [True] * 5 + [False] * 2
        assert b.quota.refused == {Refusal.RPC_RATE: 2} and len(links(b)) == 1
        await net.settle(2.0)
        assert [await ask(a, b) for _ in range(4)] == [True, True, False, False]
        b.quota.validate()
        assert b.quota.streams_open == (0, 0)

    tell(story)


def test_every_peer_and_every_protocol_has_a_rate_of_its_own():
    async def story(net, a, b):
        slow(b)
        b.answer(OTHER, lambda peer, note: note)
        c = await net.node()
        net.meet(c, b)
        assert [await ask(a, b) for _ in range(6)] == [True] * 5 + [False]
        assert await ask(a, b, OTHER) and await ask(c, b)

    tell(story)


def test_a_new_connection_brings_no_new_questions():
    async def story(net, a, b):
        slow(b, per_s=0.001)
        for _ in range(5):
            assert await ask(a, b)
        links(a)[0].close(0, "again")
        await net.settle(1.0)
        assert not await ask(a, b) and not links(b)[0].driver.is_closed

    tell(story)


def test_streams_for_a_handler_count_too_and_start_no_task():
    async def story(net, a, b):
        slow(b, burst=2, per_s=0.001)
        started = []

        async def handler(stream):
            started.append(await stream.receive())

        b.serve(OTHER, handler)
        for number in range(3):
            stream = await a.open(b.peer_id, OTHER, timeout_s=5)
            await stream.send(Note(number=number))
            await net.settle(0.2)
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.RESOURCE_LIMIT
        assert [note.number for note in started] == [0, 1] and b.quota.streams_open == (0, 0)

    tell(story)


def test_each_question_of_a_stream_that_carries_many_counts():
    async def story(net, a, b):
        slow(b, burst=3, per_s=0.001)
        b.answer(OTHER, lambda peer, note: note, reuses_streams=True)
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        for number in range(3):
            await stream.send(Note(number=number))
            assert (await stream.receive()).number == number
        await stream.send(Note(number=3))
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.RESOURCE_LIMIT
        assert b.quota.refused == {Refusal.RPC_RATE: 1}

    tell(story)


def test_who_goes_on_for_ever_loses_the_connection_and_others_do_not_notice():
    async def story(net, a, b):
        c = await net.node()
        net.meet(c, b)
        slow(b, burst=31, per_s=0.001)
        assert await ask(a, b)
        (link,) = links(b)
        link.driver._waste = Bucket(Rate(burst=20, per_s=0.001), net.clock.now())
        refused = 0
        for _ in range(30):
            answers = await asyncio.gather(ask(a, b), ask(a, b), return_exceptions=True)
            refused += answers.count(False)
            assert await ask(c, b)
        assert refused >= 20 and b.quota.refused[Refusal.WASTE] == 1 and link.driver.is_closed

    tell(story)


def test_the_table_is_bounded():
    quota = Quota(NodeLimits(rpc_rate=Rate(burst=1, per_s=0.001)))
    for number in range(10_000):
        assert quota.admits_rpc(b"%d" % number, "/x", 0.0)
    assert len(quota._rpcs) == 4096 and not quota.admits_rpc(b"9999", "/x", 0.0)
