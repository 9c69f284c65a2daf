"""The DHT under churn: nodes come and go by a published fit, some provide a key, others look for nodes and keys.

It runs `quiver.dht.service` unmodified: a node that comes back starts with an empty table and no records, through peers
that were up then. What it checks as it goes: nobody holds a record of a node that is gone for longer than its lease.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec

from quiver.dht.service import DhtService
from quiver.errors import Unavailable
from quiver.params import Params
from quiver.runtime import Nursery
from quiver.trace import LookupFinished
from sim.churn import Churn
from sim.garbage import quiet_collector
from sim.kademlia import KNOWN, KademliaWorld, compute_quantile
from sim.transport import Links

# One node in so many provides a key of its own.
PROVIDES_EVERY = 10
# Seconds between two looks into all stores.
CHECK_S = 60.0


class ChurnResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did. A lookup counts if its target was in the network when it began, and its asker when it ended."""

    nodes: int
    up_mean: float
    "Nodes in the network, mean over the checks after the warm-up."
    starts: int
    "Sessions that began."
    lookups: int
    found: int
    "Lookups whose target answered."
    provider_lookups: int
    providers_found: int
    "Lookups of a key that found its one provider."
    ghosts: int
    "Of the keys of nodes that were gone: answers that still named them."
    ghost_age_s_max: float
    "Longest that a named provider was gone, seconds; the lease is the bound."
    records_checked: int
    stale_records: int
    "Records held for a node that was gone for longer than its lease. Must be 0."
    hops_mean: float
    hops_p95: float
    frames: int
    cpu_s: float
    sim_s: float
    digest: str


class ChurnWorld(KademliaWorld):
    """Nodes that start, join, announce themselves, and crash without goodbye."""

    def __init__(self, nodes: int, churn: Churn, *, seed: int, params: Params | None, links: Links | None) -> None:
        super().__init__(nodes, seed=seed, params=params, links=links)
        self._churn = churn
        self._keys = [self.substreams.digest("kademlia", "model", index) for index in range(nodes)]
        self._places: dict[int, int] = {}
        "Node -> its place in `up`."
        self.up: list[int] = []
        "Nodes that have joined and not crashed, in no order."
        self.gone_s = [-math.inf] * nodes
        "When each node was last switched off: -infinity before its first session, infinity while it is on."
        self.starts = self.found = self.lookups = self.provider_lookups = self.providers_found = 0
        self.ghosts = self.records_checked = self.stale_records = 0
        self.ghost_age_s_max = 0.0
        self.up_counts: list[int] = []
        self._index_of = {service.me.peer_id: index for index, service in enumerate(self.services)}
        # Everybody begins switched off.
        for service in self.services:
            self.network.nodes[service.me.peer_id].crash()

    def on_lookup(self, event: LookupFinished) -> None:
        """Hops of lookups of nodes; a node's upkeep and the lookups of keys are not among them."""
        if event.found and event.key in self._index_of:
            self.hops.append(event.hops)

    # ---- nodes

    async def live(self, index: int, delay_s: float) -> None:
        """One node's sessions, the first after `delay_s`."""
        rng = self.substreams.stream("kademlia", "sessions", index)
        await self.clock.sleep(delay_s)
        for up_s, down_s in self._churn.sessions(rng):
            if up_s > 0:
                await self._session(index, up_s, rng)
            await self.clock.sleep(down_s)

    async def _session(self, index: int, up_s: float, rng: random.Random) -> None:
        self.starts += 1
        transport = self.network.node(self.peer_id(index), index=index)
        service = self.services[index] = self.start(transport)
        self.gone_s[index] = math.inf
        async with Nursery() as nursery:
            nursery.start(self._serve(index, service, rng))
            await self.clock.sleep(up_s)
            nursery.cancel()
        transport.crash()
        self.gone_s[index] = self.env.now
        place = self._places.pop(index, None)
        if place is not None:
            last = self.up.pop()
            if last != index:
                self.up[place] = last
                self._places[last] = place

    async def _serve(self, index: int, service: DhtService, rng: random.Random) -> None:
        while self.up:
            try:
                await service.bootstrap([self.services[rng.choice(self.up)].me for _ in range(KNOWN)])
                break
            except Unavailable:
                continue
        self._places[index] = len(self.up)
        self.up.append(index)
        if index % PROVIDES_EVERY == 0:
            await service.provide(self._keys[index])
        await service.run()

    # ---- what is measured

    async def look_up(self, rng: random.Random, per_s: float) -> None:
        """For ever, `per_s` times a second on average: a random node looks for another, and for a random provider's key."""
        async with Nursery() as nursery:
            while True:
                await self.clock.sleep(rng.expovariate(per_s))
                source, target = rng.sample(self.up, 2)
                nursery.start(self._find_node(source, target))
                nursery.start(self._find_provider(source, rng.randrange(0, len(self.services), PROVIDES_EVERY)))

    async def _find_node(self, source: int, target: int) -> None:
        service, key = self.services[source], self.peer_id(target)
        nearest = await service.find_node(key)
        if self._is_on(source, service):
            self.lookups += 1
            self.found += bool(nearest) and nearest[0].peer_id == key

    async def _find_provider(self, source: int, provider: int) -> None:
        service, was_up, gone_s = self.services[source], provider in self._places, self.gone_s[provider]
        infos = await service.find_providers(self._keys[provider])
        named = self.peer_id(provider) in [info.peer_id for info in infos]
        if not self._is_on(source, service):
            return
        if was_up:
            self.provider_lookups += 1
            self.providers_found += named
        # Off before and after, without a session between: what was named is a ghost.
        elif named and gone_s < math.inf and self.gone_s[provider] == gone_s:
            self.ghosts += 1
            self.ghost_age_s_max = max(self.ghost_age_s_max, self.env.now - gone_s)

    def _is_on(self, index: int, service: DhtService) -> bool:
        """Whether node `index` still lives the life of `service`; who was switched off finds nothing, and that counts for nothing."""
        return self.services[index] is service and self.gone_s[index] == math.inf

    async def check(self) -> None:
        """For ever: no store holds a record of a node gone for longer than a lease."""
        while True:
            await self.clock.sleep(CHECK_S)
            now = self.env.now
            self.up_counts.append(len(self.up))
            for index in self.up:
                for _, info in self.services[index].records.unexpired(now):
                    self.records_checked += 1
                    # An announcement may have been under way when its sender was switched off.
                    late_s = now - self.gone_s[self._index_of[info.peer_id]] - self.params.rpc_timeout_s
                    self.stale_records += late_s > self.params.lease_s


def run_kademlia_churn(
    nodes: int, churn: Churn, *, duration_s: float = 3600.0, warm_s: float = 1800.0, lookups_per_s: float = 3.0, seed: int = 1,
    params: Params | None = None, links: Links | None = None, cpu_clock: Callable[[], float] = lambda: math.nan,
) -> ChurnResult:  # fmt: skip
    """Start `nodes` nodes over half of `warm_s`, let them come and go, and measure for `duration_s` after `warm_s`."""
    start_s = cpu_clock()
    world = ChurnWorld(nodes, churn, seed=seed, params=params, links=links)
    rng = world.substreams.stream("kademlia", "churn lookups")

    async def story() -> None:
        async with Nursery() as nursery:
            for index in range(nodes):
                nursery.start(world.live(index, warm_s / 2 * index / nodes))
            await world.clock.sleep(warm_s)
            world.hops.clear()
            nursery.start(world.check())
            nursery.start(world.look_up(rng, lookups_per_s))
            await world.clock.sleep(duration_s)
            nursery.cancel()

    with quiet_collector():
        world.env.run_coroutine(story())
    return ChurnResult(
        nodes=nodes, up_mean=sum(world.up_counts) / max(len(world.up_counts), 1), starts=world.starts, lookups=world.lookups,
        found=world.found, provider_lookups=world.provider_lookups, providers_found=world.providers_found,
        ghosts=world.ghosts, ghost_age_s_max=world.ghost_age_s_max, records_checked=world.records_checked,
        stale_records=world.stale_records, hops_mean=sum(world.hops) / max(len(world.hops), 1),
        hops_p95=compute_quantile(world.hops, 0.95), frames=world.trace.frames, cpu_s=cpu_clock() - start_s,
        sim_s=world.env.now, digest=world.trace.digest(),
    )  # fmt: skip
