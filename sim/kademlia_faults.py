"""A join storm, and a partition that heals, in the DHT. Everything here is simulated.

It runs `quiver.dht.service` unmodified on the simulated transport, with nothing switched off for the occasion.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from quiver.errors import Unavailable
from quiver.params import Params
from quiver.runtime import Nursery
from sim.garbage import quiet_collector
from sim.kademlia import KNOWN, KademliaWorld, compute_quantile
from sim.transport import UniformLinks

ONE_WAY_S = 0.05


class StormResult(msgspec.Struct, frozen=True, kw_only=True):
    """`newcomers` nodes joined a network of `residents` within a second."""

    residents: int
    newcomers: int
    failed: int
    "Newcomers none of whose bootstrap peers answered."
    join_s_p95: float
    "From a newcomer's start to the end of its bootstrap, seconds; 95 % are quicker."
    found: float
    "Share of lookups of newcomers by newcomers that found them, right after the last one had joined."
    found_residents: float
    "The same for lookups of residents by residents."
    digest: str


def run_join_storm(residents: int, newcomers: int, *, seed: int = 1, lookups: int = 500) -> StormResult:
    """`residents` join one after the other; then all `newcomers` within one second, each told of three residents.

    >>> run_join_storm(40, 80, lookups=50).failed
    0
    """
    world = KademliaWorld(residents + newcomers, seed=seed)
    rng = world.substreams.stream("kademlia", "storm")
    times: list[float] = []
    failed = 0

    async def join(index: int) -> None:
        nonlocal failed
        await world.clock.sleep(rng.random())
        began_s = world.env.now
        known = [world.services[rng.randrange(residents)].me for _ in range(KNOWN)]
        try:
            await world.services[index].bootstrap(known)
        except Unavailable:
            failed += 1
        times.append(world.env.now - began_s)

    async def story() -> tuple[float, float]:
        await world.join(interval_s=0.05, count=residents)
        async with Nursery() as nursery:
            for index in range(residents, residents + newcomers):
                nursery.start(join(index))
        new, old = range(residents, residents + newcomers), range(residents)
        return await look_up(world, rng, new, new, lookups), await look_up(world, rng, old, old, lookups)

    with quiet_collector():
        found, found_residents = world.env.run_coroutine(story())
    return StormResult(
        residents=residents, newcomers=newcomers, failed=failed, join_s_p95=compute_quantile(times, 0.95),
        found=found, found_residents=found_residents, digest=world.trace.digest(),
    )  # fmt: skip


async def look_up(
    world: KademliaWorld, rng: random.Random, sources: Sequence[int], targets: Sequence[int], count: int
) -> float:
    """Share of `count` lookups, one after the other, of a random target by a random source that found it."""
    found = 0
    for _ in range(count):
        source, target = rng.choice(sources), rng.choice(targets)
        while target == source:
            target = rng.choice(targets)
        key = world.peer_id(target)
        nearest = await world.services[source].find_node(key)
        found += bool(nearest) and nearest[0].peer_id == key
    return found / count


class SplitLinks(UniformLinks):
    """Uniform, but even and odd nodes cannot talk while `split`."""

    split = False

    def delay_s(self, source: int, destination: int, size_bytes: int, now: float) -> float:
        return float("inf") if self.split and (source ^ destination) & 1 else self.one_way_s

    def handshake_s(self, source: int, destination: int, now: float) -> float:
        return 2 * self.delay_s(source, destination, 0, now)


class PartitionResult(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of lookups that found their target."""

    nodes: int
    split_s: float
    before: float
    within_halves: float
    "During the partition, of the own half, after `split_s`."
    across_at_once: float
    "Of the other half, right after it healed."
    across_by_refresh: list[float]
    "Of the other half, one, two ... refresh periods after it healed."
    digest: str


def run_partition(
    nodes: int, *, seed: int = 1, split_s: float = 3600.0, periods: int = 3, lookups: int = 200,
    params: Params | None = None,
) -> PartitionResult:  # fmt: skip
    """Every second node is cut off from the others for `split_s`, long enough for both halves to forget each other."""
    links = SplitLinks(ONE_WAY_S)
    world = KademliaWorld(nodes, seed=seed, links=links, params=params)
    rng = world.substreams.stream("kademlia", "partition")
    even, odd, everybody = range(0, nodes, 2), range(1, nodes, 2), range(nodes)

    async def across() -> float:
        one = await look_up(world, rng, even, odd, lookups // 2)
        return (one + await look_up(world, rng, odd, even, lookups // 2)) / 2

    async def story() -> PartitionResult:
        await world.join(interval_s=0.05)
        async with Nursery() as nursery:
            for service in world.services:
                nursery.start(service.run())
            before = await look_up(world, rng, everybody, everybody, lookups)
            links.split = True
            await world.clock.sleep(split_s)
            within = await look_up(world, rng, even, even, lookups // 2)
            within = (within + await look_up(world, rng, odd, odd, lookups // 2)) / 2
            links.split = False
            at_once = await across()
            later = []
            for _ in range(periods):
                await world.clock.sleep(world.params.bucket_refresh_s)
                later.append(await across())
            nursery.cancel()
        return PartitionResult(
            nodes=nodes, split_s=split_s, before=before, within_halves=within, across_at_once=at_once,
            across_by_refresh=later, digest=world.trace.digest(),
        )  # fmt: skip

    with quiet_collector():
        result: PartitionResult = world.env.run_coroutine(story())
    return result
