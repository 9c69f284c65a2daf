"""Rpcs and streams that go wrong: lost connections, bugs of ours, malformed messages; and what they leave behind."""

from __future__ import annotations

import asyncio
import gc

import pytest

from quiver.errors import MalformedMessage, PeerUnreachable, StreamReset, UsageError, WireCode
from quiver.quic.events import FrameStream
from quiver.values.kad import KadMessage, KadType
from quiver.wire.multistream import encode_proposal
from quiver.wire.protocols import KAD
from sim.loop import UnhandledTaskError
from tests.conformance.transport_suite import ECHO, OTHER, Note, echo
from tests.unit.quic.story import links, tell


def test_a_lost_connection_makes_the_peer_unreachable_for_an_rpc_under_way():
    async def story(net, a, b):
        async def silent(stream):
            await asyncio.Event().wait()

        b.serve(OTHER, silent)
        asking = asyncio.get_running_loop().create_task(a.rpc(b.peer_id, OTHER, Note(number=1), timeout_s=60))
        await net.settle(0.5)
        await b.close()
        with pytest.raises(PeerUnreachable, match="was lost"):
            await asking

    tell(story)


@pytest.mark.parametrize("kind", ["answer", "handler"])
def test_a_bug_of_ours_is_internal_to_the_peer_and_stops_the_run_here(kind):
    codes = []

    async def story(net, a, b):
        async def broken(stream):
            await stream.receive()
            raise ZeroDivisionError

        if kind == "answer":
            b.answer(OTHER, lambda peer, note: 1 / 0)
        else:
            b.serve(OTHER, broken)
        reports = []
        b._report = lambda protocol_id, error: reports.append((protocol_id, type(error)))
        with pytest.raises(StreamReset) as caught:
            await a.rpc(b.peer_id, OTHER, Note(number=1), timeout_s=5)
        codes.append(caught.value.code)
        assert reports == [(OTHER.id, ZeroDivisionError)]
        del b._report
        with pytest.raises(StreamReset):
            await a.rpc(b.peer_id, OTHER, Note(number=1), timeout_s=5)

    with pytest.raises(UnhandledTaskError):
        tell(story)
    assert codes == [WireCode.INTERNAL]


def test_the_last_registration_of_a_protocol_counts():
    async def story(net, a, b):
        b.serve(ECHO, echo)
        b.answer(ECHO, lambda peer, note: Note(number=5))
        assert (await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)).number == 5
        b.serve(ECHO, echo)
        assert (await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)).number == 1

    tell(story)


def test_a_malformed_frame_is_an_error_with_its_peer_and_a_reset_for_the_sender():
    class Broken:
        id, frame_bytes_max, fixed_bytes = ECHO.id, ECHO.frame_bytes_max, 0
        encode, size = (lambda self, message: b"\x10\xff"), (lambda self, message: 2)
        decode = staticmethod(ECHO.decode)

    async def story(net, a, b):
        b.serve(ECHO, lambda stream: stream.receive())
        stream = await a.open(b.peer_id, Broken(), timeout_s=5)
        await stream.send(Note(number=1))
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code == WireCode.MALFORMED

    tell(story)


def test_a_malformed_answer_names_who_sent_it():
    class Deaf:
        id, frame_bytes_max, fixed_bytes = ECHO.id, ECHO.frame_bytes_max, 0
        encode, size = staticmethod(ECHO.encode), staticmethod(ECHO.size)

        def decode(self, data):
            raise MalformedMessage("as planned")

    async def story(net, a, b):
        with pytest.raises(MalformedMessage) as caught:
            await a.rpc(b.peer_id, Deaf(), Note(number=1), timeout_s=5)
        assert caught.value.peer_id == b.peer_id
        await net.settle(1.0)
        assert all(link.driver.streams_open == 0 for link in (*links(a), *links(b)))

    tell(story)


def test_finished_rpcs_leave_nothing_behind():
    async def story(net, a, b):
        for number in range(10):
            await a.rpc(b.peer_id, ECHO, Note(number=number), timeout_s=5)
        with pytest.raises(StreamReset):
            await a.rpc(b.peer_id, OTHER, Note(number=1), timeout_s=5)
        await net.settle(1.0)
        for link in (*links(a), *links(b)):
            assert link.driver.streams_open == 0
            assert not link.driver._ignored and not link.driver._negotiating and not link.driver._quic._streams

    tell(story)


def streams_alive():
    return [one for one in gc.get_objects() if isinstance(one, FrameStream)]


def test_the_streams_of_answered_rpcs_are_no_work_for_the_garbage_collector():
    async def story(net, a, b):
        await a.rpc(b.peer_id, ECHO, Note(number=0), timeout_s=5)
        await net.settle(1.0)
        gc.collect()
        before = len(streams_alive())
        gc.disable()
        try:
            for number in range(10):
                await a.rpc(b.peer_id, ECHO, Note(number=number), timeout_s=5)
            await net.settle(1.0)
            assert len(streams_alive()) == before
        finally:
            gc.enable()

    tell(story)


def test_two_receives_at_once_are_our_own_mistake():
    async def story(net, a, b):
        b.serve(OTHER, echo)
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        first = asyncio.get_running_loop().create_task(stream.receive())
        await net.settle(0.01)
        with pytest.raises(UsageError):
            await stream.receive()
        stream.reset(0)
        with pytest.raises(StreamReset):
            await first

    tell(story)


class Named:
    """ECHO under another name."""

    def __init__(self, name):
        self.id, self.frame_bytes_max, self.fixed_bytes = name, ECHO.frame_bytes_max, 0
        self.encode, self.decode, self.size = ECHO.encode, ECHO.decode, ECHO.size


@pytest.mark.parametrize(
    ("name", "ends_at_once"),
    [("/quiver/offer/1.0.0", True), ("/quiver/kad/1.0.0", False), ("/ipfs/kad/1.0.0", False), ("/other/1", False)],
)
def test_our_end_leaves_with_the_question_only_where_no_stranger_answers(name, ends_at_once):
    async def story(net, a, b):
        protocol, seen = Named(name), []
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        await net.settle(1.0)
        (link,) = links(b)
        take = link.driver._on_data
        link.driver._on_data = lambda *arguments: (seen.append((len(arguments[1]), arguments[2])), take(*arguments))
        b.answer(protocol, lambda peer, note: note)
        assert (await a.rpc(b.peer_id, protocol, Note(number=2), timeout_s=5)).number == 2
        await net.settle(1.0)
        assert [end for _, end in seen] == ([True] if ends_at_once else [False, True])
        assert seen[0][0] == len(encode_proposal(name)) + 1 + len(ECHO.encode(Note(number=2)))
        assert a.quota.streams_open == b.quota.streams_open == (0, 0)

    tell(story)


def test_a_question_too_large_to_be_sent_is_no_fault_of_the_peer():
    async def story(net, a, b):
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        with pytest.raises(MalformedMessage) as caught:
            await a.rpc(b.peer_id, ECHO, Note(number=1, text="x" * (ECHO.frame_bytes_max + 1)), timeout_s=5)
        assert caught.value.peer_id is None
        assert a.quota.streams_open == (0, 0) and len(links(a)) == 1

    tell(story)


def test_an_rpc_that_is_cancelled_frees_both_ends():
    async def story(net, a, b):
        async def silent(stream):
            await asyncio.Event().wait()

        b.serve(OTHER, silent)
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        asking = asyncio.get_running_loop().create_task(a.rpc(b.peer_id, OTHER, Note(number=1), timeout_s=60))
        await net.settle(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await net.settle(0.1)
        assert a.quota.streams_open == (0, 0)
        assert all(not row.due_s for row in a._deadlines._rows.values())
        assert links(b)[0].driver.streams_open == 0

    tell(story)


def test_our_end_leaves_with_the_turn_in_which_the_answer_is_taken_whatever_was_sent_before():
    async def story(net, a, b):
        # Strangers may answer it, so our end comes after their answer.
        b.answer(KAD, lambda peer, message: message)
        await a.rpc(b.peer_id, KAD, KadMessage(type=KadType.PING), timeout_s=5)
        await net.settle(1.0)
        (theirs,), (ours,) = links(b), links(a)
        deliver = a.on_datagram

        def on_datagram(data, address):
            # The turn's transmission was asked for before the answer came, as where many connections are busy.
            ours.transmit_soon()
            deliver(data, address)

        a.on_datagram = on_datagram
        await a.rpc(b.peer_id, KAD, KadMessage(type=KadType.PING), timeout_s=5)
        await net.settle(0.021)
        assert theirs.driver.streams_open == 0

    tell(story)
