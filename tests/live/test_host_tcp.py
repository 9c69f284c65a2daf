"""TCP sockets at their worst: a peer that takes nothing, whatever it says, and goodbyes that nobody reads."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quiver.identity.keys import KeyPair
from quiver.live.libp2p import tcp
from quiver.live.libp2p.host import Host, Kind
from quiver.live.libp2p.tcp_driver import TcpDriver
from quiver.quic.limits import Limits, Refusal
from quiver.quic.tls import make_judge
from quiver.quic.transport import framing_of
from tests.conformance.transport_suite import ECHO, OTHER, Note
from tests.unit.quic.pair import identity

IDLE_S = 0.6


class DeafPeer:
    """Asks for much, goes on talking, and reads nothing after the handshake."""

    def __init__(self, host):
        self.address = host._tcp.address
        judge = make_judge(host._clock.utc_ms)
        shown = identity(5, utc_ms=host._clock.utc_ms())
        self.driver = TcpDriver(
            shown, is_dialer=True, judge=judge, expected_peer=host.peer_id, limits=Limits(), framings={}, now=0.0
        )

    async def connect(self):
        loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)
        await loop.sock_connect(self.socket, self.address)
        while self.driver._session is None:
            await loop.sock_sendall(self.socket, self.driver.data_to_send())
            self.driver.receive(await loop.sock_recv(self.socket, 65536), 0.0)

    async def say(self):
        await asyncio.get_running_loop().sock_sendall(self.socket, self.driver.data_to_send())

    async def ask(self, count):
        for number in range(count):
            stream = self.driver.open(OTHER.id, framing_of(OTHER))
            # It lets us send as much as we like, so that nothing but its socket stands in the way.
            self.driver._session._frame(1, 0, stream.id, 16 << 20)
            self.driver.write(stream, OTHER.encode(Note(number=number)))
        await self.say()


def with_deaf_peer(story, **options):
    """`story(host, deaf)` with a deaf peer that is connected and has asked for 40 answers of 100 kB."""

    async def main():
        host = Host(KeyPair(b"h" * 32), kinds=(Kind.TCP,), **options)
        await host.start()
        host.answer(ECHO, lambda peer, note: note)
        host.answer(OTHER, lambda peer, note: Note(number=1, text="x" * 100_000))
        deaf = DeafPeer(host)
        await deaf.connect()
        try:
            await deaf.ask(40)
            await story(host, deaf)
        finally:
            deaf.socket.close()
            await host.close()

    asyncio.run(main())


async def until(found, seconds):
    async with asyncio.timeout(seconds):
        while not found():
            await asyncio.sleep(0.02)


def test_a_peer_that_talks_and_takes_nothing_is_ended_after_the_idle_timeout():
    async def story(host, deaf):
        (link,) = host._transport.swarm.links
        began_s = host._clock.now()
        while not link.driver.is_closed:
            assert host._clock.now() - began_s < 5 * IDLE_S
            deaf.driver._session._frame(2, 1, 0, 7)
            await deaf.say()
            await asyncio.sleep(0.05)
        assert "took nothing" in link.driver.ending_reason and host.refused[Refusal.STALLED] == 1
        await until(lambda: not host._transport.swarm.links, 2 * tcp.CLOSE_GRACE_S)
        assert not host._tcp._wires

    with_deaf_peer(story, limits=Limits(idle_timeout_s=IDLE_S))


def test_a_peer_that_takes_nothing_gets_no_more_than_the_memory_of_a_connection():
    most = 1_000_000

    async def story(host, deaf):
        (link,) = host._transport.swarm.links
        for _ in range(5):
            await deaf.ask(40)
            await asyncio.sleep(0.05)
        assert host.refused[Refusal.MEMORY] >= 100
        wire = host._tcp._wires[link]
        held = link.driver._buffered_bytes_total()
        # What TLS has encrypted waits for the kernel: what was unsent when the last of the buffer's room was seen.
        room = tcp.WRITE_BUFFER_BYTES + 2 * (most + 100_100)
        assert held + wire._transport.get_write_buffer_size() < room

    with_deaf_peer(story, limits=Limits(unsent_bytes_max=most))


def test_closing_waits_a_second_for_a_peer_that_takes_nothing():
    async def story(host, deaf):
        began_s = host._clock.now()
        await host.close()
        assert host._clock.now() - began_s < 3 * tcp.CLOSE_GRACE_S
        assert not host._tcp._wires and not host._transport.swarm.links

    with_deaf_peer(story)


@pytest.mark.parametrize("when", range(6))
def test_a_dial_that_is_given_up_at_any_time_leaves_nothing(when):
    async def main():
        a, b = (Host(KeyPair(bytes([number]) * 32), kinds=(Kind.TCP,)) for number in (1, 2))
        await a.start()
        await b.start()
        link = a._tcp.dial(b.local_info().addresses[0], b.peer_id)
        for _ in range(when):
            await asyncio.sleep(0)
        a._tcp.give_up(link)
        # What the kernel has connected meanwhile is accepted, and ends too.
        await asyncio.sleep(0.05)
        for host in (a, b):
            await until(
                lambda host=host: not host._tcp._wires and not host._transport.swarm.links, 3 * tcp.CLOSE_GRACE_S
            )
            await host.close()

    asyncio.run(main())
