"""Streams that come to nothing, answers nobody takes, questions that never come: bounded, refused with their code, counted."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from aioquic.quic.packet import QuicErrorCode

from quiver.errors import Busy, QuiverError, StreamReset, WireCode
from quiver.quic.limits import Bound, Limits, Refusal
from quiver.quic.rate import Rate
from quiver.quic.streams import CLOSE_RATE_LIMITED, NEGOTIATION_TIMEOUT_S
from quiver.wire.framing import encode_frame
from quiver.wire.multistream import encode_proposal
from tests.conformance.transport_suite import ECHO, OTHER, Note
from tests.unit.quic.pair import FRAME_MAX, FRAMING, PROTOCOL, Pair
from tests.unit.quic.story import limit, links, tell


def counted(driver):
    kinds = Counter()
    driver.on_refusal = lambda kind: kinds.update([kind])
    return kinds


@pytest.mark.parametrize(
    ("data", "ends", "kind"),
    [
        (b"GET / HTTP/1.1\r\n" * 5, False, Refusal.NEGOTIATION),
        (encode_proposal(PROTOCOL) + encode_frame(b"x" * (FRAME_MAX + 1))[:10], False, Refusal.FRAME),
        (encode_proposal(PROTOCOL) + b"\x05cut", True, Refusal.FRAME),
    ],
)
def test_a_stream_that_breaks_the_rules_is_counted_by_what_it_broke(data, ends, kind):
    pair = Pair().run()
    kinds = counted(pair.server)
    pair.quics[0].send_stream_data(0, data, end_stream=ends)
    pair.run(0.5)
    assert kinds == {kind: 1} and pair.server.streams_open == 0


def test_a_peer_that_breaks_a_rule_of_quic_is_counted_once_by_whoever_caught_it():
    pair = Pair().run()
    caught, culprit = counted(pair.server), counted(pair.client)
    pair.client.open(PROTOCOL, FRAMING)
    # More streams than it may open.
    pair.quics[0]._remote_max_streams_bidi = 10_000
    for _ in range(Limits().streams_max + 1):
        pair.quics[0].send_stream_data(pair.quics[0].get_next_available_stream_id(), b"x")
    pair.run(0.5)
    assert pair.closed(pair.server) == pair.closed(pair.client) == [QuicErrorCode.STREAM_LIMIT_ERROR]
    assert caught == {Refusal.PROTOCOL: 1} and not culprit


def test_a_goodbye_and_an_idle_timeout_are_nobodys_fault():
    pair = Pair(limits=Limits(idle_timeout_s=3.0)).run()
    kinds = [counted(pair.server), counted(pair.client)]
    pair.client.close(0, "bye")
    pair.run(1.0)
    silent = Pair(limits=Limits(idle_timeout_s=3.0)).run()
    kinds += [counted(silent.server), counted(silent.client)]
    silent.run(60.0)
    assert silent.server.is_closed and pair.server.is_closed and not any(kinds)


def test_streams_that_are_opened_and_reset_for_ever_cost_the_peer_its_connection():
    pair = Pair(limits=Limits(waste=Rate(burst=20, per_s=1.0))).run()
    kinds = counted(pair.server)
    for _ in range(20):
        pair.client.reset(pair.client.open(PROTOCOL, FRAMING), 0)
        pair.run(0.001)
    pair.run(0.2)
    assert not pair.closed(pair.server)
    for _ in range(3):
        stream = pair.client.open(PROTOCOL, FRAMING)
        pair.run(0.05)
        pair.client.reset(stream, 0)
    pair.run(0.5)
    assert pair.closed(pair.server) == pair.closed(pair.client) == [CLOSE_RATE_LIMITED]
    assert kinds == {Refusal.WASTE: 1} and pair.server.streams_open == 0


def test_our_own_streams_that_the_peer_resets_are_not_held_against_it():
    pair = Pair(limits=Limits(waste=Rate(burst=3, per_s=0.001))).run()
    for _ in range(10):
        mine, theirs = pair.stream()
        pair.server.reset(theirs, 1)
        pair.run(0.1)
        assert mine.read_code == 1
    assert not pair.closed(pair.client) and not pair.closed(pair.server)


def test_unsent_bytes_of_all_streams_together_are_bounded_and_writers_go_on_when_the_peer_takes_them():
    most = 64 * 1024
    pair = Pair(limits=Limits(stream_window_bytes=32 * 1024, unsent_bytes_max=most)).run()
    streams = [pair.stream() for _ in range(8)]
    written = 0
    for mine, _ in streams:
        while pair.client.may_write(mine):
            pair.client.write(mine, b"x" * 1000)
            written += 1
    held = pair.quics[0].buffered_bytes_total()
    # Each of the last writers crosses the bound with one frame at most.
    assert most <= held < most + 2 * 1003
    received = 0
    for _ in range(100):
        pair.run(0.1)
        for mine, theirs in streams:
            while pair.server.read(theirs) is not None:
                received += 1
            if written < 500 and pair.client.may_write(mine):
                pair.client.write(mine, b"x" * 1000)
                written += 1
    assert received == written == 500


def test_an_answer_whose_question_never_comes_is_given_up_and_counted():
    async def story(net, a, b):
        stream = await a.open(b.peer_id, ECHO, timeout_s=5)
        await net.settle(NEGOTIATION_TIMEOUT_S - 1)
        assert links(b)[0].driver.streams_open == 1
        await net.settle(1.5)
        assert links(b)[0].driver.streams_open == 0
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.DEADLINE and b.quota.refused == {Refusal.QUESTION: 1}

    tell(story)


def test_a_handlers_stream_may_wait_for_its_first_frame_as_long_as_it_likes():
    async def story(net, a, b):
        async def patient(stream):
            await stream.send(await stream.receive())

        b.serve(OTHER, patient)
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        await net.settle(5 * NEGOTIATION_TIMEOUT_S)
        await stream.send(Note(number=7))
        assert (await stream.receive()).number == 7 and not b.quota.refused

    tell(story)


def test_a_stream_over_a_bound_is_reset_with_its_code_and_the_others_go_on():
    async def story(net, a, b):
        limit(b, streams_per_protocol_and_peer=Bound(incoming=2, outgoing=2, total=2))

        async def hold(stream):
            await stream.receive()
            await asyncio.Event().wait()

        b.serve(OTHER, hold)
        streams = [await a.open(b.peer_id, OTHER, timeout_s=5) for _ in range(3)]
        for stream in streams:
            await stream.send(Note(number=1))
        with pytest.raises(StreamReset) as caught:
            await streams[2].receive()
        assert caught.value.code == WireCode.RESOURCE_LIMIT
        assert b.quota.refused == {Refusal.STREAMS_PER_PROTOCOL_AND_PEER: 1}
        assert (await a.rpc(b.peer_id, ECHO, Note(number=2), timeout_s=5)).number == 2
        b.quota.validate()

    tell(story)


def test_a_handler_counts_until_it_has_returned_whatever_the_peer_does_to_its_stream():
    async def story(net, a, b):
        limit(b, streams_per_protocol_and_peer=Bound(incoming=2, outgoing=2, total=2))
        release, running = asyncio.Event(), []

        async def stubborn(stream):
            running.append(stream)
            await release.wait()

        b.serve(OTHER, stubborn)
        for _ in range(10):
            stream = await a.open(b.peer_id, OTHER, timeout_s=5)
            await net.settle(0.1)
            stream.reset(0)
            await net.settle(0.1)
        assert len(running) == 2 and b.quota.refused == {Refusal.STREAMS_PER_PROTOCOL_AND_PEER: 8}
        release.set()
        await net.settle(0.1)
        assert b.quota.streams_open == (0, 0)

    tell(story)


def test_our_own_streams_over_a_bound_are_busy():
    async def story(net, a, b):
        limit(a, streams_per_protocol_and_peer=Bound(incoming=2, outgoing=2, total=2))
        streams = [await a.open(b.peer_id, ECHO, timeout_s=5) for _ in range(2)]
        with pytest.raises(Busy, match="streams_per_protocol_and_peer"):
            await a.open(b.peer_id, ECHO, timeout_s=5)
        streams[0].reset(0)
        assert (await a.rpc(b.peer_id, ECHO, Note(number=3), timeout_s=5)).number == 3
        a.quota.validate()

    tell(story)


def test_a_peer_that_takes_no_answers_gets_no_more():
    async def story(net, a, b):
        b.answer(OTHER, lambda peer, note: Note(number=1, text="x" * 60_000))
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        (link,) = links(b)
        link.driver._limits = Limits(unsent_bytes_max=200_000)
        # What B sends is lost from now on: A acknowledges nothing.
        b._endpoint._send_datagram = lambda data, address: None

        async def ask():
            with pytest.raises(QuiverError):
                await a.rpc(b.peer_id, OTHER, Note(number=1), timeout_s=3)

        await asyncio.gather(*(ask() for _ in range(20)))
        assert b.quota.refused[Refusal.MEMORY] >= 10
        assert link.driver._quic.buffered_bytes_total() < 200_000 + 61_000

    tell(story)


def test_all_books_are_empty_when_everybody_has_left():
    async def story(net, a, b):
        for number in range(10):
            await a.rpc(b.peer_id, ECHO, Note(number=number), timeout_s=5)
        await a.open(b.peer_id, ECHO, timeout_s=5)
        await a.close()
        await net.settle(2.0)
        for node in (a, b):
            assert node.quota.streams_open == (0, 0) and not node.quota._peers
            assert not node.swarm.admission._groups and not node.swarm.admission.half_open

    tell(story)


def test_a_peer_that_left_before_its_handler_is_forgotten_with_it():
    async def story(net, a, b):
        release = asyncio.Event()
        b.serve(OTHER, lambda stream: release.wait())
        await a.open(b.peer_id, OTHER, timeout_s=5)
        await net.settle(0.1)
        await a.close()
        await net.settle(1.0)
        assert not links(b) and b.quota.streams_open == (1, 0)
        release.set()
        await net.settle(0.1)
        assert b.quota.streams_open == (0, 0) and not b.quota._peers

    tell(story)


def test_a_peer_that_speaks_first_hears_of_the_stream_at_once():
    async def story(net, a, b):
        async def greet(stream):
            await stream.send(Note(number=42))

        b.serve(OTHER, greet)
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        await net.settle(1.0)
        began_s = net.env.now
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        assert (await stream.receive()).number == 42
        assert net.env.now - began_s == pytest.approx(0.04, abs=0.001)

    tell(story)


def test_a_stream_given_up_while_it_waits_for_leave_to_open_breaks_nothing():
    pair = Pair(limits=Limits(streams_max=2)).run()
    streams = [pair.client.open(PROTOCOL, FRAMING) for _ in range(5)]
    for stream in streams:
        pair.client.write(stream, b"question")
    pair.run(0.2)
    for stream in streams[2:4]:
        pair.client.reset(stream, 0)
    pair.run(1.0)
    assert not pair.server.is_closed and not pair.client.is_closed and pair.server.streams_open == 2
    for stream in (*streams[:2], *pair.opened()):
        (pair.client if stream.is_ours else pair.server).reset(stream, 0)
    pair.run(1.0)
    # Those that were given up have opened and ended too, so the last one has its turn.
    assert [len(stream.frames) for stream in pair.opened()] == [0, 0, 1] and pair.server.streams_open == 1
    assert not pair.server.is_closed
