"""The Transport suite on real aioquic connections in virtual time, over a perfect and over a lossy network."""

from __future__ import annotations

import asyncio

import pytest

from quiver.identity.keys import KeyPair
from quiver.quic.limits import Limits
from sim.clock import SimClock
from sim.loop import Environment
from sim.packets import PacketNetwork
from sim.rng import Substreams
from sim.trace import RunTrace
from sim.transport import UniformLinks
from tests.conformance.transport_suite import ECHO, Note, TransportSuite, echo


class PacketNet:
    def __init__(self, loss=0.0, seed=1):
        self.env = Environment()
        self.trace = RunTrace(record=True)
        self.network = PacketNetwork(self.env, UniformLinks(0.02), self.trace, Substreams(seed), loss=loss)
        self.clock = SimClock(self.env)
        self.count = 0

    def run(self, story):
        try:
            return self.env.run_coroutine(story(self))
        finally:
            self.env.close()

    def keypair(self):
        self.count += 1
        return KeyPair(bytes([self.count]) * 32)

    def stranger(self):
        return self.keypair().peer_id

    async def node(self):
        return self.network.node(self.keypair())

    def set_window(self, params):
        self.network.limits = Limits(stream_window_bytes=params.stream_window_bytes)

    def meet(self, a, b):
        a.learn(b.local_info())
        b.learn(a.local_info())

    async def crash(self, node):
        node.crash()

    async def settle(self, seconds=0.05):
        await self.clock.sleep(seconds)


@pytest.fixture(params=[0.0, 0.02], ids=["perfect", "lossy"])
def net(request):
    return PacketNet(loss=request.param)


class TestPacketTransport(TransportSuite):
    """All of the suite."""


async def exchange(net):
    """20 rpcs and one echoed stream of 60 kB. Returns the round-trip time of the last rpc, seconds."""
    a, b = await net.node(), await net.node()
    net.meet(a, b)
    b.answer(ECHO, lambda peer, note: note)
    for number in range(20):
        asked = net.env.now
        await a.rpc(b.peer_id, ECHO, Note(number=number), timeout_s=30)
    rpc_s = net.env.now - asked
    b.serve(ECHO, echo)
    stream = await a.open(b.peer_id, ECHO, timeout_s=30)
    for number in range(30):
        await stream.send(Note(number=number, text="x" * 2000))
    stream.finish()
    while await stream.receive() is not None:
        pass
    await asyncio.gather(a.close(), b.close())
    return rpc_s


def test_an_rpc_on_an_open_connection_takes_one_round_trip():
    rpc_s = PacketNet().run(exchange)
    # 2 x 20 ms, and nothing waits: naming the protocol costs no round trip.
    assert rpc_s == pytest.approx(0.040, abs=0.0005)


def test_the_same_seed_gives_the_same_frames_at_the_same_times():
    runs = [PacketNet(loss=0.05, seed=7) for _ in range(2)]
    for net in runs:
        net.run(exchange)
    assert runs[0].network.datagrams_lost > 0
    assert runs[0].trace.digest() == runs[1].trace.digest()
    other = PacketNet(loss=0.05, seed=8)
    other.run(exchange)
    assert other.trace.digest() != runs[0].trace.digest()
