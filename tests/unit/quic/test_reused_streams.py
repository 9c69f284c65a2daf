"""A stream that carries one question after another (libp2p kad-dht, RPC messages): answers, ends, silence and backpressure."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import PeerError, StreamReset, WireCode
from quiver.quic.limits import Limits, Refusal
from quiver.quic.streams import NEGOTIATION_TIMEOUT_S
from tests.conformance.transport_suite import OTHER, Note
from tests.unit.quic.story import links, tell

# Two ways of 20 ms, and some.
ROUND_TRIP_S = 0.05


def answer_all(node, function=lambda peer, note: note):
    node.answer(OTHER, function, reuses_streams=True)


def test_questions_are_answered_in_order_and_our_end_follows_the_askers():
    async def story(net, a, b):
        answer_all(b)
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        for number in range(3):
            await stream.send(Note(number=number))
        assert [(await stream.receive()).number for _ in range(3)] == [0, 1, 2]
        await stream.send(Note(number=3))
        assert (await stream.receive()).number == 3
        await net.settle(ROUND_TRIP_S)
        # An answer whose end comes with it is lost on py-libp2p.
        assert not stream._stream.has_ended
        stream.finish()
        assert await stream.receive() is None
        await net.settle(ROUND_TRIP_S)
        assert a.quota.streams_open == b.quota.streams_open == (0, 0) and not b.quota.refused

    tell(story)


def test_a_question_that_brings_the_askers_end_is_answered_with_ours():
    async def story(net, a, b):
        answer_all(b)
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        await stream.send(Note(number=1))
        stream.finish()
        assert (await stream.receive()).number == 1 and await stream.receive() is None
        # Nobody waits for a question on a stream that is over.
        await net.settle(2 * NEGOTIATION_TIMEOUT_S)
        assert not b.quota.refused and len(links(b)) == 1

    tell(story)


def test_rpcs_leave_nothing_behind():
    async def story(net, a, b):
        answer_all(b)
        notes = [a.rpc(b.peer_id, OTHER, Note(number=number), timeout_s=5) for number in range(20)]
        assert [note.number for note in await asyncio.gather(*notes)] == list(range(20))
        await net.settle(ROUND_TRIP_S)
        assert links(a)[0].driver.streams_open == links(b)[0].driver.streams_open == 0

    tell(story)


def test_an_asker_that_falls_silent_loses_the_stream_after_its_time():
    async def story(net, a, b):
        answer_all(b)
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        for number in range(2):
            await net.settle(0.7 * NEGOTIATION_TIMEOUT_S)
            await stream.send(Note(number=number))
            assert (await stream.receive()).number == number
        await net.settle(NEGOTIATION_TIMEOUT_S + 1)
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.DEADLINE and b.quota.refused == {Refusal.QUESTION: 1}

    tell(story)


def test_a_question_that_is_refused_ends_the_stream():
    def refuse_two(peer, note):
        if note.number == 2:
            raise PeerError("two", peer_id=peer)
        return note

    async def story(net, a, b):
        answer_all(b, refuse_two)
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        await stream.send(Note(number=1))
        assert (await stream.receive()).number == 1
        for number in (2, 3):
            await stream.send(Note(number=number))
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == PeerError.wire_code
        assert links(b)[0].driver.streams_open == 0

    tell(story)


def test_an_asker_that_reads_no_answers_is_not_answered_further():
    async def story(net, a, b):
        told = []
        answer_all(b, lambda peer, note: told.append(note.number) or Note(number=note.number, text="x" * 10_000))
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        for number in range(200):
            await stream.send(Note(number=number))
        await net.settle(2.0)
        # A window at the asker, and one waiting to be sent, each with less than an answer over it.
        assert len(told) <= 2 * (Limits().stream_window_bytes // 10_000 + 1)
        assert [(await stream.receive()).number for _ in range(200)] == told == list(range(200))

    tell(story)
