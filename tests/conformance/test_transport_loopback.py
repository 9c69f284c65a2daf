"""The Transport suite on real loopback: QUIC over UDP, and TLS with yamux over TCP."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quiver.identity.keys import KeyPair
from quiver.live.libp2p.host import Host, Kind
from quiver.quic.limits import Limits
from quiver.wire.yamux_stream import INITIAL_WINDOW_BYTES
from tests.conformance.transport_suite import TransportSuite

# A crashed peer is given up after this silence; the default of 30 s would only make the tests slow.
LIMITS = Limits(idle_timeout_s=1.0, handshake_timeout_s=1.0)


class LoopbackNet:
    def __init__(self, *kinds):
        self.kinds = kinds
        self.window_bytes_min = INITIAL_WINDOW_BYTES if kinds == (Kind.TCP,) else 0
        self.limits = LIMITS
        self.nodes = []
        self.errors = []

    def run(self, story):
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self.errors.append(context))
            try:
                await story(self)
            finally:
                for node in self.nodes:
                    await node.close()

        asyncio.run(main())
        assert not self.errors

    async def node(self):
        node = Host(KeyPair(bytes([len(self.nodes) + 1]) * 32), kinds=self.kinds, limits=self.limits)
        await node.start()
        self.nodes.append(node)
        return node

    def set_window(self, params):
        self.limits = msgspec.structs.replace(LIMITS, stream_window_bytes=params.stream_window_bytes)

    def meet(self, a, b):
        a.learn(b.local_info())
        b.learn(a.local_info())

    async def crash(self, node):
        await node.abort()

    async def settle(self, seconds=0.05):
        await asyncio.sleep(min(seconds, 0.3))

    def stranger(self):
        return KeyPair(b"stranger" * 4).peer_id


class TestQuicTransport(TransportSuite):
    @pytest.fixture
    def net(self):
        return LoopbackNet(Kind.QUIC)


class TestTcpTransport(TransportSuite):
    @pytest.fixture
    def net(self):
        return LoopbackNet(Kind.TCP)
