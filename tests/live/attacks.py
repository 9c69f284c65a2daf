"""What a hostile peer does to a host, for as long as it is let: `python -m tests.live.attacks NAME QUIC_PORT TCP_PORT PEER_ID`.

Runs in a process of its own, so that its work is not taken for the victim's. Says `ready` once it is under way.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from itertools import count

from quiver.errors import QuiverError, WireCode
from quiver.identity.keys import KeyPair
from quiver.live.libp2p.host import Host, Kind
from quiver.live.libp2p.identify import PUSH
from quiver.quic.limits import Limits
from quiver.quic.rate import Rate
from quiver.quic.transport import framing_of
from quiver.values.identify import Identify
from quiver.values.kad import KadMessage, KadType, Record
from quiver.values.peer import PeerInfo
from quiver.wire.framing import encode_varint
from quiver.wire.multiaddr import quic_address, tcp_address
from quiver.wire.multistream import encode_proposal
from quiver.wire.ping import PING
from quiver.wire.protocols import KAD
from quiver.wire.yamux_frame import encode_header
from tests.conformance.transport_suite import ECHO, Note

HOST, OTHER_HOST = "127.0.0.1", "127.0.0.2"
# It forgives everything, so that only the victim ends anything.
PATIENT = Limits(waste=Rate(burst=10**9, per_s=1e9))


class Target:
    def __init__(self, quic_port, tcp_port, peer):
        self.quic, self.tcp, self.peer = (HOST, quic_port), (HOST, tcp_port), peer

    async def link(self, kind):
        """A fresh host of the attacker's, and its connection."""
        host = Host(KeyPair(os.urandom(32)), kinds=(kind,), limits=PATIENT)
        await host.start()
        address = quic_address(*self.quic) if kind is Kind.QUIC else tcp_address(*self.tcp)
        host.pin(PeerInfo(peer_id=self.peer, addresses=(address,)))
        return host, await host._transport.swarm.connect(self.peer)


def say(word):
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def ready():
    say("ready")


# ---- before a connection exists


async def initials(target):
    """A thousand first datagrams a second from a hundred source ports, each for a connection of its own."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
    ready()
    for number in count():
        for one in range(10):
            head = b"\xc0\x00\x00\x00\x01\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\x00\x44\x96"
            sockets[(10 * number + one) % 100].sendto(head + os.urandom(1200 - len(head)), target.quic)
        await asyncio.sleep(0.01)


async def handshakes(target):
    """Whole handshakes from another address of this machine, QUIC and TCP, each begun whatever became of those before."""
    hosts = [Host(KeyPair(os.urandom(32)), host=OTHER_HOST, kinds=(Kind.QUIC,), limits=PATIENT) for _ in range(8)]
    for host in hosts:
        await host.start()
    ready()
    for number in count():
        endpoint = hosts[number % 8]._transport._endpoint
        link = endpoint.dial(quic_address(*target.quic), target.peer)
        link.ready.add_done_callback(lambda _, link=link: link.close(0, "again"))
        asyncio.get_running_loop().call_later(1.0, link.close, 0, "no answer")
        if number % 4 == 0:
            await _shake_hands_over_tcp(target)
        await asyncio.sleep(0.002)


async def _shake_hands_over_tcp(target):
    try:
        _, writer = await asyncio.open_connection(*target.tcp, local_addr=(OTHER_HOST, 0))
        writer.write(encode_proposal("/tls/1.0.0"))
        writer.close()
    except OSError:
        pass


async def _connect_for_ever(target, first):
    writers = []
    for number in count():
        reader, writer = await asyncio.open_connection(*target.tcp)
        writer.write(first)
        writers.append((reader, writer))
        if number == 100:
            ready()
        # The newest 400 stay open on this side.
        if len(writers) > 400:
            writers.pop(0)[1].close()
        await asyncio.sleep(0.005)


async def silent_sockets(target):
    """Two hundred TCP connections a second that never say a word."""
    await _connect_for_ever(target, b"")


async def stalled_handshakes(target):
    """The same, but they stop in the middle of TLS."""
    await _connect_for_ever(
        target, encode_proposal("/tls/1.0.0") + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)
    )


# ---- streams


async def _trickle(target, first, then):
    """200 streams that stand open and get a byte now and then; new ones for those that are refused."""
    host, link = await target.link(Kind.QUIC)
    driver, streams = link.driver, {}
    for turn in count():
        # An answer ends a stream: whatever the victim gives up is opened anew.
        streams = {stream_id: None for stream_id in streams if driver._quic.is_receiving(stream_id)}
        while len(streams) < 200:
            stream_id = driver._quic.get_next_available_stream_id()
            driver._write(stream_id, first)
            streams[stream_id] = None
        for stream_id in streams:
            driver._write(stream_id, then)
        link.transmit_soon()
        if turn == 2:
            ready()
        await asyncio.sleep(0.1)


async def slow_proposals(target):
    """A byte of multistream-select at a time, and never the newline."""
    await _trickle(target, b"\x13", b"/")


async def slow_frames(target):
    """A question of a megabyte, byte by byte."""
    await _trickle(target, encode_proposal(ECHO.id) + encode_varint(1 << 20), b"x")


async def resets(target):
    """Open, ask and reset, 5,000 times a second; again with a new connection when that is closed."""
    while True:
        host, link = await target.link(Kind.QUIC)
        ready()
        while not link.driver.is_closed:
            for _ in range(50):
                stream = link.driver.open(ECHO.id, framing_of(ECHO))
                link.driver.write(stream, ECHO.encode(Note(number=1)))
                link.transmit_soon()
                await asyncio.sleep(0)
                link.driver.reset(stream, 0)
                link.transmit_soon()
            await asyncio.sleep(0.01)
        await host.close()


async def oversized(target):
    """Frames and multistream messages that claim to be huge, on 500 streams a second."""
    while True:
        host, link = await target.link(Kind.QUIC)
        ready()
        while not link.driver.is_closed:
            for number in range(10):
                stream_id = link.driver._quic.get_next_available_stream_id()
                huge = encode_varint(1 << 40) + bytes(1000)
                link.driver._quic.send_stream_data(stream_id, (encode_proposal(ECHO.id) if number % 2 else b"") + huge)
            link.transmit_soon()
            await asyncio.sleep(0.02)
        await host.close()


async def yamux_windows(target):
    """Data beyond a stream's window, over and over."""
    while True:
        host, link = await target.link(Kind.TCP)
        ready()
        driver = link.driver
        stream = driver.open(ECHO.id, framing_of(ECHO))
        link.transmit_soon()
        await asyncio.sleep(0.01)
        driver._tls.write(encode_header(0, 0, stream.id, 1 << 24))
        link.transmit_soon()
        await link_end(link)
        await host.close()
        await asyncio.sleep(0.02)


async def link_end(link):
    while not link.driver.is_closed:
        await asyncio.sleep(0.01)


async def pings(target):
    """Ten ping streams on one connection, each with a hundred pings under way; eight of them are too many."""
    host, _ = await target.link(Kind.QUIC)

    async def flood():
        while True:
            try:
                stream = await host.open(target.peer, PING, timeout_s=5)
                for _ in range(100):
                    await stream.send(bytes(32))
                while True:
                    await stream.receive()
                    await stream.send(bytes(32))
            except QuiverError:
                await asyncio.sleep(0.05)

    # Our own bound on outgoing pings is for the polite.
    host._transport.quota.scope = lambda peer, protocol_id: NoScope()
    ready()
    await asyncio.gather(*(flood() for _ in range(10)))


class NoScope:
    def enter(self, *, is_incoming):
        return None

    def leave_incoming(self):
        """Nothing is counted."""

    leave_outgoing = leave_incoming


async def identify_bombs(target):
    """Pushes of more and larger messages than anybody reads."""
    host, _ = await target.link(Kind.QUIC)
    ready()
    while True:
        try:
            stream = await host.open(target.peer, PUSH, timeout_s=5)
            for number in range(12):
                await stream.send(Identify(protocols=tuple(f"/x/{number}/{n}" for n in range(500))))
            stream.finish()
            await stream.receive()
        except QuiverError:
            await asyncio.sleep(0.005)


async def questions(target):
    """Small questions, a hundred at a time, as fast as they are answered or refused; again when the connection is closed."""
    host, _ = await target.link(Kind.QUIC)

    async def flood():
        while True:
            try:
                await host.rpc(target.peer, ECHO, Note(number=1), timeout_s=5)
            except QuiverError:
                # Alone in the process it would otherwise never let the connection hear of its end.
                await asyncio.sleep(0.001)

    ready()
    await asyncio.gather(*(flood() for _ in range(100)))


async def bogus_records(target):
    """10,000 provider records of keys nobody has, and values that no validator knows, of ten peers as fast as they are answered."""
    numbers = iter(range(10_000))

    async def tell():
        host, _ = await target.link(Kind.QUIC)
        me = PeerInfo(peer_id=host.peer_id, addresses=(quic_address("192.0.2.1", 4001),))
        for number in numbers:
            key = b"\x12\x20" + number.to_bytes(32, "big")
            await ask(host, target, KadMessage(type=KadType.ADD_PROVIDER, key=key, providers=(me,)))
            if number % 10 == 0:
                record = Record(key=b"/none/" + key, value=bytes(1000))
                await ask(host, target, KadMessage(type=KadType.PUT_VALUE, key=record.key, record=record))
            if number == 500:
                ready()

    await asyncio.gather(*(tell() for _ in range(10)))
    say("done")
    await asyncio.Event().wait()


async def ask(host, target, message):
    try:
        await host.rpc(target.peer, KAD, message, timeout_s=10)
    except QuiverError as error:
        assert getattr(error, "code", None) != WireCode.INTERNAL, error


ATTACKS = {
    attack.__name__: attack
    for attack in (
        initials, handshakes, silent_sockets, stalled_handshakes, slow_proposals, slow_frames, resets, oversized, yamux_windows, pings,
        identify_bombs, questions, bogus_records,
    )
}  # fmt: skip


def main():
    name, quic_port, tcp_port, peer = sys.argv[1:]
    asyncio.run(ATTACKS[name](Target(int(quic_port), int(tcp_port), bytes.fromhex(peer))))


if __name__ == "__main__":
    main()
