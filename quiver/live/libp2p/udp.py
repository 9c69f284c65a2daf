"""A UDP socket that reads in bulk.

asyncio's own datagram transport reads one datagram a turn; here a turn reads up to `DATAGRAMS_A_TURN_MAX`, so that one
acknowledgement covers many packets and the endpoint sends once for all of them.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from quiver.errors import UsageError
from quiver.quic.events import NetworkAddress

DATAGRAMS_A_TURN_MAX = 64
# Datagrams that wait while the kernel's buffer is full; beyond it they are lost, and QUIC sends them again.
SEND_QUEUE_MAX = 1024
SOCKET_BUFFER_BYTES = 2 * 1024 * 1024
DATAGRAM_BYTES_MAX = 65_535


class UdpSocket:
    """Bound on creation; port 0 lets the kernel choose. `on_datagram(data, address)` from the next turn on, once `start` was called."""

    def __init__(self, host: str, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._socket: socket.socket | None = _bind(host, port)
        self.address: NetworkAddress = self._socket.getsockname()[:2]
        self.ip_version = 6 if self._socket.family == socket.AF_INET6 else 4
        self.datagrams_lost = 0
        "Datagrams this side dropped: the queue was full or the kernel refused the address."
        self._waiting: deque[tuple[bytes, NetworkAddress]] = deque()
        self._on_datagram: Callable[[bytes, NetworkAddress], None] | None = None

    def start(self, on_datagram: Callable[[bytes, NetworkAddress], None]) -> None:
        """Read from now on."""
        self._on_datagram = on_datagram
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._on_readable)

    def _on_readable(self) -> None:
        assert self._on_datagram is not None
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
            self._on_datagram(data, (address[0], address[1]))

    def send(self, data: bytes, address: NetworkAddress) -> None:
        """Send now, or queue while the kernel has no room. Nothing after `close`."""
        if self._socket is None:
            return
        if self._waiting:
            self._enqueue(data, address)
            return
        try:
            self._socket.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._socket, self._on_writable)
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
        self._loop.remove_writer(self._socket)

    def close(self) -> None:
        """Release the port."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
            self._waiting.clear()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on UDP {host} port {port}: {error}; choose another host or port") from error
    return sock
