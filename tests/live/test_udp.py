"""The UDP shell: binding, both IP versions, and a socket that refuses. The behaviour of the transport is in the suite."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quiver.errors import PeerUnreachable, UsageError
from quiver.identity.keys import KeyPair
from quiver.live.clock import LiveClock
from quiver.live.libp2p import udp
from quiver.live.libp2p.host import Host, Kind
from quiver.quic.limits import Limits
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import from_text, quic_address, to_text
from tests.conformance.transport_suite import ECHO, Note


def node(number, **options):
    return Host(KeyPair(bytes([number]) * 32), kinds=(Kind.QUIC,), **options)


async def question(a, b):
    b.answer(ECHO, lambda peer, note: Note(number=note.number + 1))
    a.learn(b.local_info())
    return (await a.rpc(b.peer_id, ECHO, Note(number=1), timeout_s=10)).number


def test_ipv6_works_like_ipv4():
    async def main():
        a, b = node(1, host="::1"), node(2, host="::1")
        await a.start()
        await b.start()
        assert to_text(b.local_info().addresses[0]) == f"/ip6/::1/udp/{b.port}/quic-v1"
        assert await question(a, b) == 2
        await a.close()
        await b.close()

    asyncio.run(main())


def test_a_port_in_use_is_explained():
    async def main():
        a = node(1)
        await a.start()
        with pytest.raises(UsageError, match=f"port {a.port}.*choose another"):
            await node(2, port=a.port).start()
        await a.close()

    asyncio.run(main())


def test_what_is_announced_is_what_others_are_told():
    async def main():
        outer = from_text("/ip4/203.0.113.7/udp/4001/quic-v1")
        a, b = node(1, host="0.0.0.0", announce=(outer,)), node(2, host="0.0.0.0")
        await a.start()
        await b.start()
        assert a.local_info().addresses == (outer,)
        assert b.local_info().addresses == ()
        await a.close()
        await b.close()

    asyncio.run(main())


def test_before_start_every_call_says_so():
    for call in (lambda t: t.local_info(), lambda t: t.port, lambda t: t.rtt_s(t.peer_id)):
        with pytest.raises(UsageError, match="start"):
            call(node(1))


class Full:
    """A socket whose buffer is full until `opens`."""

    def __init__(self, real):
        self.real, self.is_full = real, True

    def sendto(self, data, address):
        if self.is_full:
            raise BlockingIOError
        return self.real.sendto(data, address)

    def __getattr__(self, name):
        return getattr(self.real, name)


def test_a_full_socket_queues_a_bounded_number_of_datagrams_and_sends_them_later(monkeypatch):
    monkeypatch.setattr(udp, "SEND_QUEUE_MAX", 3)

    async def main():
        a, b = node(1), node(2)
        await a.start()
        await b.start()
        full = a._udp._socket = Full(a._udp._socket)
        for _ in range(5):
            a._udp.send(b"x", ("127.0.0.1", b.port))
        assert len(a._udp._waiting) == 3 and a.datagrams_lost == 2
        full.is_full = False
        assert await question(a, b) == 2
        assert not a._udp._waiting
        await a.close()
        await b.close()

    asyncio.run(main())


def test_the_live_clock_agrees_with_the_event_loop():
    async def main():
        clock = LiveClock()
        assert abs(clock.now() - asyncio.get_running_loop().time()) < 1.0
        await clock.sleep(0)
        assert clock.utc_ms() > 1_700_000_000_000

    asyncio.run(main())


def test_a_dial_that_runs_out_of_time_is_an_unreachable_peer():
    async def story():
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        silent.bind(("127.0.0.1", 0))
        node = Host(KeyPair(b"a" * 32), kinds=(Kind.QUIC,), limits=Limits(handshake_timeout_s=5.0))
        await node.start()
        try:
            address = quic_address("127.0.0.1", silent.getsockname()[1])
            peer = KeyPair(b"b" * 32).peer_id
            node.learn(PeerInfo(peer_id=peer, addresses=(address,)))
            # DeadlineExceeded would tell a client that its own time was over.
            with pytest.raises(PeerUnreachable, match="within 0.1 s"):
                await node.open(peer, ECHO, timeout_s=0.1)
        finally:
            await node.abort()
            silent.close()

    asyncio.run(story())
