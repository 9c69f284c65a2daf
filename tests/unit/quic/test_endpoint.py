"""Many connections behind one address, in virtual time: reuse, dialling, limits, strangers' datagrams, goodbye."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quiver.errors import DeadlineExceeded, MalformedMessage, PeerUnreachable, StreamReset, UsageError, WireCode
from quiver.quic import address_book, swarm
from quiver.quic.admission import Admission
from quiver.quic.limits import Limits
from quiver.quic.streams import CLOSE_RESOURCE_LIMIT
from quiver.runtime import Deadline
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import from_text, quic_address
from sim.loop import UnhandledTaskError
from tests.conformance.test_transport_packets import PacketNet
from tests.conformance.transport_suite import ECHO, OTHER, Note, echo


def links(node):
    return node.swarm.links


def tell(story):
    """Run `story(net, a, b)` with two nodes that know each other and answer ECHO."""
    net = PacketNet()

    async def main(net):
        a, b = await net.node(), await net.node()
        net.meet(a, b)
        for node in (a, b):
            node.answer(ECHO, lambda peer, note: note)
        return await story(net, a, b)

    return net.run(main)


def test_rpcs_streams_and_both_directions_share_one_connection():
    async def story(net, a, b):
        a.serve(OTHER, echo)
        await asyncio.gather(*(a.rpc(b.peer_id, ECHO, Note(number=n), timeout_s=5) for n in range(20)))
        await b.rpc(a.peer_id, ECHO, Note(number=1), timeout_s=5)
        await b.open(a.peer_id, OTHER, timeout_s=5)
        assert len(links(a)) == len(links(b)) == 1

    tell(story)


def test_nodes_that_dial_each_other_at_once_both_get_through():
    async def story(net, a, b):
        answers = await asyncio.gather(
            a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5), b.rpc(a.peer_id, ECHO, Note(number=2), timeout_s=5)
        )
        assert [answer.number for answer in answers] == [1, 2]

    tell(story)


def test_a_dead_address_is_passed_over_for_the_next():
    async def story(net, a, b):
        dead = quic_address("10.9.9.9", 4001)
        useless = from_text("/dns4/node.example/udp/4001/quic-v1")
        a.learn(PeerInfo(peer_id=b.peer_id, addresses=(useless, dead, *b.local_info().addresses)))
        assert (await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=30)).number == 1
        # The dead one had a head start, and no more.
        assert swarm.DIAL_STAGGER_S < net.env.now < swarm.DIAL_STAGGER_S + 0.3
        assert [link.driver.is_closed for link in links(a)] == [True, False]

    tell(story)


def test_the_error_of_a_failed_dial_names_each_address_and_what_it_answered():
    async def story(net, a, b):
        a.learn(PeerInfo(peer_id=net.stranger(), addresses=b.local_info().addresses))
        stranger = list(a.swarm.book)[-1]
        with pytest.raises(PeerUnreachable, match="/ip4/10.0.0.1/udp/4001/quic-v1: another peer id"):
            await a.rpc(stranger, ECHO, Note(number=1), timeout_s=5)
        with pytest.raises(PeerUnreachable, match="no address of"):
            await a.rpc(net.stranger(), ECHO, Note(number=1), timeout_s=5)

    tell(story)


def test_one_caller_that_gives_up_does_not_end_the_dial_of_the_others():
    async def story(net, a, b):
        async def hasty():
            with pytest.raises(DeadlineExceeded):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=0.03)

        results = await asyncio.gather(hasty(), a.rpc(b.peer_id, ECHO, Note(number=2), timeout_s=5))
        assert results[1].number == 2 and len(links(a)) == 1

    tell(story)


def test_where_a_peer_came_from_is_where_it_can_be_reached():
    async def story(net, a, b):
        stranger = await net.node()
        stranger.learn(a.local_info())
        stranger.answer(ECHO, lambda peer, note: Note(number=9))
        await stranger.rpc(a.peer_id, ECHO, Note(number=1), timeout_s=5)
        for link in links(a):
            link.close(0, "test")
        await net.settle(1.0)
        assert not links(a)
        assert (await a.rpc(stranger.peer_id, ECHO, Note(number=1), timeout_s=5)).number == 9

    tell(story)


def limit(node, **changes):
    """Give a node other limits, before anything has happened."""
    node.quota.limits = msgspec.structs.replace(node.quota.limits, **changes)
    node.swarm.admission = Admission(node.quota)


def test_a_peer_may_hold_only_so_many_connections():
    async def story(net, a, b):
        limit(b, connections_per_peer_max=2)
        ends = [a._endpoint._add_link((b.host, 4001), expected_peer=b.peer_id) for _ in range(3)]
        await net.settle(0.2)
        assert sorted(link.driver.is_closed for link in ends) == [False, False, True]
        assert [link.driver._quic.ending[0] for link in ends if link.driver.is_closed] == [CLOSE_RESOURCE_LIMIT]

    tell(story)


def test_connections_without_a_proven_peer_are_few():
    async def story(net, a, b):
        limit(b, half_open_max=3)
        for _ in range(5):
            a._endpoint._add_link((b.host, 4001), expected_peer=b.peer_id)
        # Nothing comes back, so nobody proves anything.
        send, b._endpoint._send_datagram = b._endpoint._send_datagram, lambda data, address: None
        await net.settle(0.1)
        assert len(links(b)) == 3
        b._endpoint._send_datagram = send

    tell(story)


def test_known_peers_are_bounded_and_the_oldest_is_forgotten(monkeypatch):
    monkeypatch.setattr(address_book, "PEERS_KNOWN_MAX", 2)

    async def story(net, a, b):
        newer = [net.stranger(), net.stranger()]
        for peer in newer:
            a.learn(PeerInfo(peer_id=peer, addresses=b.local_info().addresses))
        assert list(a.swarm.book) == newer

    tell(story)


@pytest.mark.parametrize("size", [0, 1, 20, 1199, 1200])
def test_datagrams_that_are_not_quic_change_nothing(size):
    async def story(net, a, b):
        for first in (0x00, 0x40, 0x80, 0xC0, 0xFF):
            a.receive_datagram(bytes([first]) * size, ("10.1.1.1", 1))
        assert (await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)).number == 1

    tell(story)


def test_a_client_of_another_quic_version_is_told_ours_but_never_twice():
    async def story(net, a, b):
        told = []
        a._endpoint._send_datagram = lambda data, address: told.append((data, address))
        # Long header, version 0x6b3343cf (QUIC v2), connection ids of 8 bytes, padded to 1200.
        initial = bytes.fromhex("c06b3343cf08") + b"d" * 8 + b"\x08" + b"s" * 8
        a.receive_datagram(initial + bytes(1200 - len(initial)), ("10.1.1.1", 7))
        assert len(told) == 1 and told[0][1] == ("10.1.1.1", 7)
        # RFC 9000, 17.2.1: version 0, the ids swapped, then the versions.
        assert told[0][0][1:] == bytes(4) + b"\x08" + b"s" * 8 + b"\x08" + b"d" * 8 + b"\x00\x00\x00\x01"
        a.receive_datagram(told[0][0] + bytes(1200), ("10.1.1.1", 7))
        assert len(told) == 1 and not links(a)

    tell(story)


def test_close_says_goodbye_and_ends_streams_with_shutdown():
    async def story(net, a, b):
        b.serve(OTHER, echo)
        stream = await a.open(b.peer_id, OTHER, timeout_s=5)
        await stream.send(Note(number=1))
        await stream.receive()
        await b.close()
        with pytest.raises(StreamReset) as caught:
            async with Deadline(1.0):
                await stream.receive()
        assert caught.value.code == WireCode.SHUTDOWN
        with pytest.raises(PeerUnreachable, match="shutting down"):
            await b.rpc(a.peer_id, ECHO, Note(number=1), timeout_s=1)

    tell(story)


def test_close_ends_a_dial_that_is_under_way():
    async def story(net, a, b):
        b.crash()
        asking = asyncio.get_running_loop().create_task(a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=60))
        await net.settle(0.1)
        await a.close()
        with pytest.raises(PeerUnreachable):
            await asking

    tell(story)


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


def test_an_idle_connection_ends_and_the_next_question_dials_again():
    async def story(net, a, b):
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        await net.settle(2 * Limits().idle_timeout_s + 10)
        assert not links(a) and not links(b) and not a._endpoint._routes and not b._endpoint._routes
        assert (await a.rpc(b.peer_id, ECHO, Note(number=2), timeout_s=5)).number == 2

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


def test_an_address_that_failed_is_left_alone_for_longer_and_longer():
    async def story(net, a, b):
        await b.close()
        b.crash()
        waits = []
        for _ in range(3):
            began = net.env.now
            with pytest.raises(PeerUnreachable, match="no handshake"):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=30)
            assert net.env.now - began > 5.0
            with pytest.raises(PeerUnreachable, match="failed before, left alone for"):
                await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=30)
            until_s, _ = next(iter(a.swarm._backoffs.values()))
            waits.append(until_s - net.env.now)
            await net.settle(waits[-1] + 0.01)
        assert waits == pytest.approx([0.25, 0.5, 1.0])

    tell(story)


def test_an_address_is_forgotten_after_an_hour_unless_it_is_pinned_or_in_use():
    async def story(net, a, b):
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        heard, pinned = net.stranger(), net.stranger()
        address = quic_address("10.9.9.9", 4001)
        a.learn(PeerInfo(peer_id=heard, addresses=(address,)))
        a.pin(PeerInfo(peer_id=pinned, addresses=(address,)))
        later = net.env.now + address_book.ADDRESS_TTL_S
        assert a.swarm.book.addresses(heard, later - 1) == (address,)
        assert a.swarm.book.addresses(heard, later) == ()
        assert a.swarm.book.addresses(pinned, later) == (address,)
        a.swarm.book.keep(b.peer_id, later - 1)
        assert a.swarm.book.addresses(b.peer_id, later) == b.local_info().addresses

    tell(story)


def test_of_two_connections_both_ends_leave_the_same_one():
    async def story(net, a, b):
        await asyncio.gather(
            a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5), b.rpc(a.peer_id, ECHO, Note(number=2), timeout_s=5)
        )
        assert len(links(a)) == len(links(b)) == 2
        await net.settle(5 * swarm.DUPLICATE_CHECK_S)
        (ours,), (theirs,) = links(a), links(b)
        assert ours.is_dialled == (a.peer_id < b.peer_id) and theirs.is_dialled != ours.is_dialled
        assert (await a.rpc(b.peer_id, ECHO, Note(number=3), timeout_s=5)).number == 3
        assert links(a) == (ours,)

    tell(story)


def test_one_address_group_gets_only_so_many_connections():
    async def story(net, a, b):
        limit(b, connections_per_group_max=3)
        for _ in range(5):
            a._endpoint.dial(quic_address(b.host, 4001), b.peer_id)
        await net.settle(0.2)
        assert len(links(b)) == 3

    tell(story)


def test_nobody_can_talk_a_peer_away_from_where_it_answered():
    async def story(net, a, b):
        a.answer(OTHER, lambda peer, note: note)
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        where = b.local_info().addresses
        for third in range(20):
            lies = tuple(quic_address(f"10.8.{third}.{n}", 4001) for n in range(1, 9))
            a.learn(PeerInfo(peer_id=b.peer_id, addresses=lies))
        a.learn(PeerInfo(peer_id=b.peer_id))
        known = a.swarm.book.addresses(b.peer_id, net.env.now)
        assert known[:1] == where and len(known) <= address_book.ADDRESSES_PER_PEER_MAX + 1

    tell(story)


def test_what_is_heard_of_a_peer_adds_up():
    async def story(net, a, b):
        peer, one, two = net.stranger(), quic_address("10.9.9.9", 4001), quic_address("10.9.9.8", 4001)
        a.learn(PeerInfo(peer_id=peer, addresses=(one,)))
        a.learn(PeerInfo(peer_id=peer, addresses=(two,)))
        assert a.swarm.book.addresses(peer, net.env.now) == (two, one)

    tell(story)
