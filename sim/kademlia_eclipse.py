"""Liars around one key of the DHT: they take its provider records and drop them, and name only each other. Simulated.

The attacker does what is possible on a real network: it makes keys until enough of them hash near the victim's key (about
nodes / crowd tries each), joins like everybody, and answers every question. Two things it may not have: addresses in many
groups (`groups`), and connections that lie about who is at the other end.
"""

from __future__ import annotations

import hashlib

import msgspec

from quiver.dht.distance import KEYS
from quiver.dht.service import DhtService
from quiver.ids import PeerId
from quiver.params import Params
from quiver.ports import Answer
from quiver.trace import LookupFinished
from quiver.values.kad import KadMessage, KadType
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr
from quiver.wire.protocols import KAD
from sim.garbage import quiet_collector
from sim.kademlia import KNOWN, KademliaWorld
from sim.transport import SimTransport


class AddressedTransport(SimTransport):
    """A simulated node that has an address, for what depends on where a peer is."""

    __slots__ = ("info",)

    info: PeerInfo

    def local_info(self) -> PeerInfo:
        return self.info


class EclipseResult(msgspec.Struct, frozen=True, kw_only=True):
    """What honest nodes found of a key that liars surround."""

    nodes: int
    "Honest ones."
    liars: int
    groups: int
    "Address groups the liars are spread over; 0: nobody has addresses, so no limit by group applies."
    disjoint_paths: int
    found: float
    "Share of lookups by honest nodes that found the honest provider."
    questions_mean: float
    "Questions a lookup asked."
    holders: int
    "Honest nodes that hold the record."
    digest: str


class EclipseWorld(KademliaWorld):
    """Honest nodes, one key, and liars next to it."""

    def __init__(self, nodes: int, *, liars: int, groups: int, seed: int, params: Params) -> None:
        self._has_addresses = groups > 0
        super().__init__(nodes, seed=seed, params=params)
        self.key = self.substreams.digest("kademlia", "eclipse", "key")
        self.liars: list[DhtService] = []
        # Every liar is nearer to the key than the nearest honest node.
        edge = min(KEYS[self.key] ^ service.table.own_key for service in self.services)
        tries = 0
        while len(self.liars) < liars:
            peer_id, number = self.make_peer_id("liar", tries), len(self.liars)
            tries += 1
            # Not by KEYS, which would remember every try.
            if int.from_bytes(hashlib.sha256(peer_id).digest(), "big") ^ KEYS[self.key] < edge:
                service = self._serve(peer_id, nodes + number, f"8.8.{number % max(groups, 1)}.{1 + number}")
                self.network.nodes[peer_id].answer(KAD, self._lie(service))
                self.liars.append(service)

    def _node(self, index: int) -> DhtService:
        # Honest nodes each have a group of their own.
        return self._serve(
            self.make_peer_id("node", index), index, f"{20 + (index >> 16)}.{index >> 8 & 255}.{index & 255}.1"
        )

    def _serve(self, peer_id: PeerId, index: int, host: str) -> DhtService:
        addresses = (multiaddr.quic_address(host, 4001),) if self._has_addresses else ()
        transport = AddressedTransport(self.network, peer_id, index)
        transport.info = PeerInfo(peer_id=peer_id, addresses=addresses)
        self.network.nodes[peer_id] = transport
        return self.start(transport)

    def _lie(self, service: DhtService) -> Answer:
        """Honest in everything but the one key: there are no providers, and only liars are near."""

        def answer(asker: PeerId, message: KadMessage) -> KadMessage:
            honest = service.on_question(asker, message)
            if message.key != self.key or message.type is KadType.ADD_PROVIDER:
                return honest
            others = [liar.me for liar in self.liars if liar is not service]
            return KadMessage(
                type=message.type,
                key=message.key,
                closer=tuple(self._rng.sample(others, min(len(others), self.params.k))),
            )

        return answer


def run_eclipse(
    nodes: int, liars: int, *, groups: int = 0, disjoint_paths: int = 1, lookups: int = 100, seed: int = 1
) -> EclipseResult:
    """All join, liars last; then an honest node announces the key, and others look for it.

    `groups` 0 gives nobody an address. The liars drop the announcement, as they hold it and never show it.

    >>> run_eclipse(60, 0, lookups=10).found
    1.0
    """
    params = msgspec.structs.replace(Params.default(), disjoint_paths=disjoint_paths)
    world = EclipseWorld(nodes, liars=liars, groups=groups, seed=seed, params=params)
    rng = world.substreams.stream("kademlia", "eclipse")
    asked: list[int] = []
    provider = world.services[0]

    async def story() -> float:
        await world.join(interval_s=0.05)
        for liar in world.liars:
            await liar.bootstrap([rng.choice(world.services).me for _ in range(KNOWN)])
        await provider.provide(world.key)
        world.trace.subscribe(lambda event: asked.append(event.asked), LookupFinished)
        found = 0
        for _ in range(lookups):
            found += provider.me in await rng.choice(world.services[1:]).find_providers(world.key)
        return found / lookups

    with quiet_collector():
        found = world.env.run_coroutine(story())
    now = world.env.now
    holders = [
        service for service in world.services[1:] if any(key == world.key for key, _ in service.records.unexpired(now))
    ]
    return EclipseResult(
        nodes=nodes, liars=liars, groups=groups, disjoint_paths=disjoint_paths, found=found,
        questions_mean=sum(asked) / max(len(asked), 1), holders=len(holders), digest=world.trace.digest(),
    )  # fmt: skip
