"""Many connections behind one address, in virtual time: reuse, limits, strangers' datagrams, goodbye."""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import PeerUnreachable, StreamReset, WireCode
from quiver.quic import swarm
from quiver.quic.limits import Limits
from quiver.quic.streams import CLOSE_RESOURCE_LIMIT
from quiver.runtime import Deadline
from quiver.wire.multiaddr import quic_address
from tests.conformance.transport_suite import ECHO, OTHER, Note, echo
from tests.unit.quic.story import limit, links, tell


def test_rpcs_streams_and_both_directions_share_one_connection():
    async def story(net, a, b):
        a.serve(OTHER, echo)
        await asyncio.gather(*(a.rpc(b.peer_id, ECHO, Note(number=n), timeout_s=5) for n in range(20)))
        await b.rpc(a.peer_id, ECHO, Note(number=1), timeout_s=5)
        await b.open(a.peer_id, OTHER, timeout_s=5)
        assert len(links(a)) == len(links(b)) == 1

    tell(story)


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


def test_an_idle_connection_ends_and_the_next_question_dials_again():
    async def story(net, a, b):
        await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=5)
        await net.settle(2 * Limits().idle_timeout_s + 10)
        assert not links(a) and not links(b) and not a._endpoint._routes and not b._endpoint._routes
        assert (await a.rpc(b.peer_id, ECHO, Note(number=2), timeout_s=5)).number == 2

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
