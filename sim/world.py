"""One run of a scenario: the nodes start, clients ask, everybody settles, the books are checked, the rows handed over.

Rules of this file: no statistics, no plots. Everything random comes from named substreams of the one seed.
Who lives in a world is `sim.population`, who asks is `sim.clients`.
"""

from __future__ import annotations

import resource
import time
from typing import Any

from tqdm.auto import tqdm

from quiver.errors import DeadlineExceeded, Unavailable, UsageError
from quiver.runtime import Nursery
from sim.capacity import MeanLengths, compute_capacity
from sim.churn import make_churn
from sim.clients import Asked, Clients
from sim.clock import SimClock
from sim.collect import Collector
from sim.garbage import quiet_collector
from sim.invariants import RequestCount, SecondBookkeeper
from sim.loop import Environment
from sim.nodes import ProviderNode
from sim.plug import plug_name
from sim.population import Population, count_slots, draw_profiles
from sim.result import Result
from sim.rng import Substreams
from sim.scenario import Scenario
from sim.trace import RunTrace
from sim.workload import Workload

# Gateways must have found a provider and opened a channel by then; it takes seconds.
JOIN_S = 120.0


class World:
    """`World(scenario, seed).run() -> Result`. A world runs once."""

    def __init__(
        self, scenario: Scenario, seed: int = 1, *, record: bool = False, scenario_hash: str | None = None
    ) -> None:
        """`scenario_hash`: as computed where the plugs' sources are known; by default it is computed here."""
        self.scenario = scenario
        self.seed = seed
        self.scenario_hash = scenario_hash or scenario.hash()
        self.env = Environment()
        self.streams = Substreams(seed)
        self.trace = RunTrace(record=record)
        self.collector = Collector(run_id=f"{self.scenario_hash}-{seed}", seed=seed, policy=plug_name(scenario.policy))
        self.books = SecondBookkeeper(slash_credits=scenario.params.slash_credits)
        self.counts = RequestCount()
        for sink in (self.collector, self.books, self.counts):
            self.trace.subscribe(sink.observe, *sink.observed)
        whole = scenario.load_workload(seed)
        mean = MeanLengths.of(whole)
        profiles = draw_profiles(scenario, self.streams)
        self.capacity_rps = compute_capacity([(profile, count_slots(scenario, profile)) for profile in profiles], mean)
        self.workload = scale_workload(whole, scenario, self.capacity_rps)
        asked = Asked()
        self.population = Population(
            scenario, seed, env=self.env, streams=self.streams, trace=self.trace, profiles=profiles, mean=mean,
            asked=asked,
        )  # fmt: skip
        self.providers = self.population.providers
        self.gateways = self.population.gateways
        self.aggregator = self.population.aggregator
        self.collector.names |= self.population.names()
        self._clients = Clients(
            scenario, self.workload, env=self.env, streams=self.streams, topology=self.population.topology,
            collector=self.collector, asked=asked,
        )  # fmt: skip

    def run(self, *, progress: bool = True) -> Result:
        """Simulate, settle and check; a second call is a mistake."""
        began_wall, began_cpu = time.perf_counter(), time.process_time()
        title = f"{self.scenario.name} seed {self.seed}"
        try:
            with (
                quiet_collector(),
                tqdm(total=len(self.workload), unit="req", disable=not progress, desc=title) as bar,
            ):
                self.env.run_coroutine(self._main(bar))
            self._check()
        except Exception as error:
            error.add_note(f"replay: {self.scenario.write_command(self.seed)}")
            raise
        finally:
            self.env.close()
        return Result.of(
            self, wall_s=time.perf_counter() - began_wall, cpu_s=time.process_time() - began_cpu,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )  # fmt: skip

    async def _main(self, bar: tqdm[Any]) -> None:
        clock = SimClock(self.env)
        await self._start(clock)
        self.collector.start_s = clock.now()
        async with Nursery() as churn:
            for node in self.providers:
                churn.start(self._live(node, clock))
            await self._clients.run(self.gateways, clock, bar)
            churn.cancel()
        await self._settle(clock)

    async def _start(self, clock: SimClock) -> None:
        """Everybody joins; gateways find providers and open channels before the first client asks."""
        for node in (*self.gateways, self.aggregator):
            self.population.deposit(node.signer.account, self.env.now)
        await self.aggregator.start()
        announce = self.scenario.discovery == "dht"
        rng = self.streams.stream("world", "bootstrap")
        async with Nursery() as nursery:
            for number, node in enumerate(self.providers):
                known = [
                    self.providers[rng.randrange(number)].runtime.transport.local_info() for _ in range(min(number, 3))
                ]
                nursery.start(node.start(known, announce=announce))
                if announce:
                    await clock.sleep(0.05)
        async with Nursery() as nursery:
            for gateway in self.gateways:
                known = (
                    [rng.choice(self.providers).runtime.transport.local_info() for _ in range(3)] if announce else []
                )
                nursery.start(gateway.start(known))
        try:
            async with clock.deadline(JOIN_S):
                while not all(gateway.service.purse.links for gateway in self.gateways):
                    await clock.sleep(1.0)
        except DeadlineExceeded as error:
            alone = [gateway.name for gateway in self.gateways if not gateway.service.purse.links]
            raise UsageError(
                f"{', '.join(alone)} found no provider within {JOIN_S:g} s of simulated time: too few nodes for the DHT "
                "(discovery='given' does without), or links that are cut"
            ) from error
        await clock.sleep(4 * self.scenario.block_time_s + 1.0)

    async def _live(self, node: ProviderNode, clock: SimClock) -> None:
        """Up and down by the churn model."""
        churn = make_churn(self.scenario.churn)
        for up_s, down_s in churn.sessions(self.streams.stream(node.name, "churn")):
            if up_s == float("inf"):
                return
            if up_s > 0:
                await clock.sleep(up_s)
            node.crash()
            await clock.sleep(down_s)
            node.revive()
            rng = node.runtime.rng
            alive = [
                other
                for other in rng.sample(self.providers, min(20, len(self.providers)))
                if other.up and other is not node
            ]
            known = [other.runtime.transport.local_info() for other in alive[:3]]
            try:
                await node.start(known, announce=self.scenario.discovery == "dht")
            except Unavailable:
                # Nobody it knew is up: it serves those who find it, and joins at its next refresh.
                continue

    async def _settle(self, clock: SimClock) -> None:
        """Acknowledge what is left, collect it, wait for the epoch to be committed, claim."""
        for gateway in self.gateways:
            await gateway.service.close()
        await clock.sleep(2.0)
        for node in self.providers:
            if node.up:
                await node.settler.settle()
        epoch_ms = self.scenario.params.epoch_ms
        await clock.sleep((epoch_ms - clock.utc_ms() % epoch_ms) / 1000 + 3 * self.scenario.block_time_s + 1.0)
        await self.aggregator.service.close_due_epochs()
        async with Nursery() as nursery:
            for node in self.providers:
                if node.up:
                    nursery.start(node.settler.settle())

    def _check(self) -> None:
        """Invariants: both bookkeepers agree to the unit, every request has one outcome, every object is sound."""
        self.population.validate()
        self.books.compare(self.population.contract)
        cheats = {self.collector.names[peer] for peer in self.population.culprits}
        for row in self.collector.requests.values():
            row.cheated = row.provider in cheats
        # A cancelled client reports its outcome as cancelled in the trace: unfinished ones are among those.
        self.counts.check(0)


def scale_workload(workload: Workload, scenario: Scenario, capacity_rps: float) -> Workload:
    """At the scenario's rate, exactly as long as its arrivals last."""
    if scenario.load is not None:
        workload = workload.at_rate(scenario.load * capacity_rps)
    elif scenario.arrivals != 1.0:
        workload = workload.scaled(scenario.arrivals)
    if scenario.duration_s > workload.span_s:
        workload = workload.lasting(scenario.duration_s)
    return workload.clip(scenario.duration_s)
