"""A few DHT nodes on the simulated transport."""

from __future__ import annotations

import random
from typing import Any, cast

from quiver.dht.service import DhtService
from quiver.ids import PeerId
from quiver.params import Params
from quiver.runtime import Runtime
from quiver.values.peer import PeerInfo
from sim.clock import SimClock
from sim.loop import Environment
from sim.trace import RunTrace
from sim.transport import Network, SimTransport, UniformLinks


def peer(number: int) -> PeerInfo:
    return PeerInfo(peer_id=PeerId(b"peer %d" % number))


class AddressedTransport:
    """The simulated transport with addresses, as live nodes have them."""

    def __init__(self, inner: SimTransport) -> None:
        self.inner = inner
        self.learned: list[PeerInfo] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def local_info(self) -> PeerInfo:
        return PeerInfo(peer_id=self.inner.peer_id, addresses=(b"address of " + self.inner.peer_id,))

    def learn(self, info: PeerInfo) -> None:
        self.learned.append(info)


class World:
    """Nodes number 0, 1, 2 ...; one-way delay 10 ms."""

    def __init__(self, nodes: int, *, params: Params | None = None, addressed: bool = False) -> None:
        self.env = Environment()
        self.clock = SimClock(self.env)
        self.trace = RunTrace()
        self.events: list[Any] = []
        self.trace.subscribe(self.events.append)
        self.params = params or Params.minimal()
        self.network = Network(self.env, UniformLinks(0.01), self.trace, params=self.params, encoded=True)
        self.addressed = addressed
        self.transports: list[Any] = []
        self.services = [self.add() for _ in range(nodes)]

    def add(self, **options: Any) -> DhtService:
        number = len(self.transports)
        transport: Any = self.network.node(peer(number).peer_id)
        if self.addressed:
            transport = AddressedTransport(transport)
        self.transports.append(transport)
        nothing = cast(Any, None)
        return DhtService(
            Runtime(
                clock=self.clock,
                transport=transport,
                store=nothing,
                signer=nothing,
                verifier=nothing,
                ledger=nothing,
                trace=self.trace,
                rng=random.Random(number),
                params=self.params,
            ),
            **options,
        )  # fmt: skip

    def info(self, number: int) -> PeerInfo:
        return self.transports[number].local_info()

    async def join_all(self) -> None:
        for number, service in enumerate(self.services):
            await service.bootstrap([self.info(number // 2)] if number else [])

    def run(self, story: Any) -> Any:
        return self.env.run_coroutine(story())
