"""A UDP socket under a `QuicTransport`.

asyncio's own datagram transport reads one datagram a turn; here a turn reads up to `DATAGRAMS_A_TURN_MAX`, so that one
acknowledgement covers many packets and the endpoint sends once for all of them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from typing import Any

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.ids import PeerId
from quiver.live.clock import LiveClock
from quiver.ports import Answer, Clock, Handler, ProtocolSpec
from quiver.quic import certificate
from quiver.quic.events import Limits, NetworkAddress
from quiver.quic.stream import PeerStream
from quiver.quic.transport import QuicTransport
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import quic_address

DATAGRAMS_A_TURN_MAX = 64
# Datagrams that wait while the kernel's buffer is full; beyond it they are lost, and QUIC sends them again.
SEND_QUEUE_MAX = 1024
SOCKET_BUFFER_BYTES = 2 * 1024 * 1024
DATAGRAM_BYTES_MAX = 65_535
_ANY_HOSTS = ("0.0.0.0", "::")


class UdpTransport:
    """`Transport` on a real UDP port. `await start()` binds; port 0 lets the kernel choose.

    `announce` are the binary multiaddrs others are told to dial; by default the address that was bound.
    """

    def __init__(
        self,
        keypair: KeyPair,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        announce: tuple[bytes, ...] = (),
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.peer_id: PeerId = keypair.peer_id
        self._keypair = keypair
        self._host = host
        self._port = port
        self._announce = announce
        self._clock = clock or LiveClock()
        self.limits = limits or Limits()
        self._socket: socket.socket | None = None
        self._waiting: deque[tuple[bytes, NetworkAddress]] = deque()
        self._quic: QuicTransport | None = None
        self.datagrams_lost = 0
        "Datagrams this side dropped: the queue was full or the kernel refused the address."

    async def start(self) -> None:
        """Bind the port and listen."""
        loop = asyncio.get_running_loop()
        sock = self._bind()
        self._socket = sock
        host, port = sock.getsockname()[:2]
        identity = certificate.make(
            public_key=self._keypair.public_key,
            sign=self._keypair.sign,
            entropy=os.urandom(certificate.PRIVATE_KEY_ENTROPY_BYTES),
            utc_ms=self._clock.utc_ms(),
        )
        # A node bound to all interfaces cannot know its outer address: without `announce` it is reached by nobody new.
        bound = () if host in _ANY_HOSTS else (quic_address(host, port),)
        self._quic = QuicTransport(
            peer_id=self.peer_id,
            identity=identity,
            clock=self._clock,
            send_datagram=self._send,
            addresses=self._announce or bound,
            ip_version=6 if sock.family == socket.AF_INET6 else 4,
            limits=self.limits,
        )
        loop.add_reader(sock, self._on_readable)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
            sock.bind((self._host, self._port))
        except OSError as error:
            sock.close()
            raise UsageError(
                f"cannot listen on UDP {self._host} port {self._port}: {error}; choose another host or port"
            ) from error
        return sock

    @property
    def port(self) -> int:
        """The UDP port that was bound."""
        if self._socket is None:
            raise UsageError("the transport is not started; await start() first")
        return int(self._socket.getsockname()[1])

    def _on_readable(self) -> None:
        for _ in range(DATAGRAMS_A_TURN_MAX):
            if self._socket is None:
                return
            try:
                data, address = self._socket.recvfrom(DATAGRAM_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # An ICMP error of some earlier datagram: QUIC's own timers judge the peer.
                continue
            self._transport.receive_datagram(data, (address[0], address[1]))

    def _send(self, data: bytes, address: NetworkAddress) -> None:
        if self._socket is None:
            return
        if self._waiting:
            self._enqueue(data, address)
            return
        try:
            self._socket.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            asyncio.get_running_loop().add_writer(self._socket, self._on_writable)
            self._enqueue(data, address)
        except OSError:
            self.datagrams_lost += 1

    def _enqueue(self, data: bytes, address: NetworkAddress) -> None:
        if len(self._waiting) < SEND_QUEUE_MAX:
            self._waiting.append((data, address))
        else:
            self.datagrams_lost += 1

    def _on_writable(self) -> None:
        assert self._socket is not None
        while self._waiting:
            data, address = self._waiting[0]
            try:
                self._socket.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.datagrams_lost += 1
            self._waiting.popleft()
        asyncio.get_running_loop().remove_writer(self._socket)

    def _close_socket(self) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
            self._waiting.clear()

    async def close(self) -> None:
        """Say goodbye to every peer, end every stream with SHUTDOWN, release the port."""
        if self._quic is not None:
            await self._quic.close()
        self._close_socket()

    async def abort(self) -> None:
        """Release the port without a word, as a crash would."""
        self._close_socket()
        await self.close()

    # ---- the port

    @property
    def _transport(self) -> QuicTransport:
        if self._quic is None:
            raise UsageError("the transport is not started; await start() first")
        return self._quic

    def local_info(self) -> PeerInfo:
        """Our peer id and the addresses others may dial."""
        return self._transport.local_info()

    def learn(self, info: PeerInfo) -> None:
        """Remember addresses of a peer."""
        self._transport.learn(info)

    def pin(self, info: PeerInfo) -> None:
        """Remember addresses that an operator named for as long as this node runs."""
        self._transport.pin(info)

    def serve(self, protocol: ProtocolSpec, handler: Handler) -> None:
        """Run `handler` as a task for each incoming stream."""
        self._transport.serve(protocol, handler)

    def answer(self, protocol: ProtocolSpec, function: Answer) -> None:
        """Answer each rpc with a plain function."""
        self._transport.answer(protocol, function)

    async def rpc(self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float) -> Any:
        """Ask, and wait for the one answer."""
        return await self._transport.rpc(peer, protocol, message, timeout_s=timeout_s)

    async def open(self, peer: PeerId, protocol: ProtocolSpec, *, timeout_s: float) -> PeerStream:
        """A new stream."""
        return await self._transport.open(peer, protocol, timeout_s=timeout_s)

    def rtt_s(self, peer: PeerId) -> float | None:
        """Smoothed round-trip time measured here, or None."""
        return self._transport.rtt_s(peer)
