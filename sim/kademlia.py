"""The scenario `kademlia-10k`: thousands of nodes join one DHT by real lookups, then look each other up.

It runs `quiver.dht.service` unmodified on the simulated transport. Nothing is seeded by hand: a newcomer knows a few
random nodes that joined before it, as a client of a bootstrap list would.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from quiver.dht.service import DhtService
from quiver.ids import PeerId
from quiver.params import Params
from quiver.runtime import Nursery, Runtime
from quiver.trace import LookupFinished
from sim.clock import SimClock
from sim.garbage import quiet_collector
from sim.loop import Environment
from sim.rng import Substreams
from sim.trace import RunTrace
from sim.transport import Links, Network, SimTransport, UniformLinks

# libp2p peer ids of Ed25519 keys begin with these bytes: identity multihash, 36 long, PublicKey protobuf.
_PEER_ID_HEAD = bytes.fromhex("002408011220")
# Nodes a newcomer is told of.
KNOWN = 3
# Connections a node keeps: much of the memory of 10,000 nodes. Measured round trips are kept for nobody: a lookup asks by
# distance, not by delay.
CONNECTIONS_MAX = 32


class KademliaResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did. Frames are delivered messages: a question and its answer are two."""

    nodes: int
    lookups: int
    found: int
    "Lookups whose target answered."
    join_frames: int
    lookup_frames: int
    hops_mean: float
    hops_p95: float
    cpu_s: float
    "CPU seconds of this process, building included, by the clock that was handed in."
    digest: str
    events: int
    "Heap entries processed."
    sim_s: float
    "Simulated seconds."

    @property
    def frames(self) -> int:
        """All frames delivered."""
        return self.join_frames + self.lookup_frames

    @property
    def frames_per_cpu_s(self) -> float:
        """Delivered frames per CPU second."""
        return self.frames / self.cpu_s


class KademliaWorld:
    """`nodes` DHT nodes on one simulated network."""

    def __init__(
        self, nodes: int, *, seed: int, params: Params | None = None, links: Links | None = None, encoded: bool = False
    ) -> None:
        self.substreams = Substreams(seed)
        self.env = Environment()
        self.trace = RunTrace()
        self.params = params or Params.default()
        self.hops: list[int] = []
        self.trace.subscribe(self.on_lookup, LookupFinished)
        self.network = Network(
            self.env,
            links or UniformLinks(0.05),
            self.trace,
            params=self.params,
            encoded=encoded,
            connections_max=CONNECTIONS_MAX,
            peers_max=0,
        )
        self.clock = SimClock(self.env)
        # One generator for all: a generator of its own would cost each node 2.5 kB, and draws are rare.
        self._rng = self.substreams.stream("kademlia", "nodes")
        self.services = [self._node(index) for index in range(nodes)]

    def on_lookup(self, event: LookupFinished) -> None:
        """A lookup of any node ended."""
        self.hops.append(event.hops)

    def _node(self, index: int) -> DhtService:
        return self.start(self.network.node(self.make_peer_id("node", index), index=index))

    def make_peer_id(self, kind: str, number: int) -> PeerId:
        """What an Ed25519 key would give; whose key it is does not matter here."""
        return PeerId(_PEER_ID_HEAD + self.substreams.digest("kademlia", kind, number))

    def start(self, transport: SimTransport) -> DhtService:
        """The DHT service of a node that was just switched on."""
        return DhtService(
            Runtime(
                clock=self.clock,
                transport=transport,
                # A DHT node holds nothing durable, signs nothing and has no money.
                store=cast(Any, None),
                signer=cast(Any, None),
                verifier=cast(Any, None),
                ledger=cast(Any, None),
                trace=self.trace,
                rng=self._rng,
                params=self.params,
            )  # fmt: skip
        )

    def peer_id(self, index: int) -> PeerId:
        """Of node `index`."""
        return self.services[index].table.own

    async def join(self, *, interval_s: float, count: int | None = None) -> None:
        """Node after node joins, one each `interval_s`, through `KNOWN` random earlier ones; the first `count`, or all."""
        rng = self.substreams.stream("kademlia", "join")
        async with Nursery() as nursery:
            for index in range(1, len(self.services) if count is None else count):
                known = [self.services[rng.randrange(index)].me for _ in range(KNOWN)]
                nursery.start(self.services[index].bootstrap(known))
                await self.clock.sleep(interval_s)

    async def look_up(self, count: int, *, concurrency: int = 100) -> int:
        """`count` lookups of random existing ids from random nodes; returns how many targets answered."""
        rng = self.substreams.stream("kademlia", "lookups")
        found = await asyncio.gather(*[
            self._look_up(rng, count // concurrency + (worker < count % concurrency)) for worker in range(concurrency)
        ])  # fmt: skip
        return sum(found)

    async def _look_up(self, rng: random.Random, count: int) -> int:
        found = 0
        for _ in range(count):
            source, target = rng.sample(range(len(self.services)), 2)
            key = self.peer_id(target)
            nearest = await self.services[source].find_node(key)
            found += bool(nearest) and nearest[0].peer_id == key
        return found


def compute_quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` does not exceed; nan without values."""
    return sorted(values)[max(math.ceil(q * len(values)) - 1, 0)] if values else math.nan


def run_kademlia(
    nodes: int = 10_000,
    lookups: int = 10_000,
    *,
    seed: int = 1,
    params: Params | None = None,
    links: Links | None = None,
    encoded: bool = False,
    join_interval_s: float = 0.05,
    cpu_clock: Callable[[], float] = lambda: math.nan,
) -> KademliaResult:
    """Join `nodes` nodes, then run `lookups` lookups of existing ids.

    `cpu_clock` is the caller's `time.process_time`; a world has no clock but its own, so without it `cpu_s` is nan.

    >>> result = run_kademlia(50, 50)
    >>> result.found
    50
    """
    start_s = cpu_clock()
    world = KademliaWorld(nodes, seed=seed, params=params, links=links, encoded=encoded)
    with quiet_collector():
        world.env.run_coroutine(world.join(interval_s=join_interval_s))
        join_frames = world.trace.frames
        world.hops.clear()
        found = world.env.run_coroutine(world.look_up(lookups))
    return KademliaResult(
        nodes=nodes,
        lookups=lookups,
        found=found,
        join_frames=join_frames,
        lookup_frames=world.trace.frames - join_frames,
        hops_mean=sum(world.hops) / max(len(world.hops), 1),
        hops_p95=compute_quantile(world.hops, 0.95),
        cpu_s=cpu_clock() - start_s,
        digest=world.trace.digest(),
        events=world.env.entries,
        sim_s=world.env.now,
    )
