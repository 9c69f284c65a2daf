"""The transport suite on the simulated transport, encoded and sized."""

import pytest

from quiver.identity.keys import KeyPair
from sim.clock import SimClock
from sim.loop import Environment
from sim.trace import RunTrace
from sim.transport import Network, UniformLinks
from tests.conformance.transport_suite import TransportSuite


class SimNet:
    """The suite's harness over `sim.transport`."""

    def __init__(self, encoded: bool) -> None:
        self.env = Environment()
        self.network = Network(self.env, UniformLinks(0.02), RunTrace(), encoded=encoded)
        self.clock = SimClock(self.env)
        self.count = 0

    def run(self, story):
        try:
            self.env.run_coroutine(story(self))
        finally:
            self.env.close()

    def stranger(self):
        self.count += 1
        return KeyPair(bytes([self.count]) * 32).peer_id

    async def node(self):
        return self.network.node(self.stranger())

    def set_window(self, params):
        self.network.params = params

    def meet(self, a, b):
        a.learn(b.local_info())
        b.learn(a.local_info())

    async def crash(self, node):
        node.crash()

    async def settle(self, seconds=0.05):
        await self.clock.sleep(seconds)


@pytest.fixture(params=["encoded", "sized"])
def net(request):
    return SimNet(request.param == "encoded")


class TestSimTransport(TransportSuite):
    """All of the suite."""
