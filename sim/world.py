"""One run of a scenario: builds the nodes, lets clients ask, settles, checks the books, hands over the rows.

Rules of this file: no statistics, no plots. Everything random comes from named substreams of the one seed.
"""

from __future__ import annotations

import gc
import hashlib
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from quiver.errors import Busy, RequestRejected, Unavailable
from quiver.ids import Address, ModelId, RequestId
from quiver.provider.pricing import Price
from quiver.provider.service import ServedModel
from quiver.runtime import Nursery
from quiver.selection.plugin import resolve
from quiver.selection.policy import Policy
from quiver.settlement.contract import Contract
from quiver.trace import LedgerMoved
from quiver.values.backend import InstalledModel
from quiver.values.ledger import Deposit
from quiver.values.request import Dialect, Failure, Final, InferenceRequest, Principal, TokenChunk
from sim.churn import Churn, NoChurn, ipfs, per_hour, spot
from sim.clock import EPOCH_MS, SimClock
from sim.collect import Collector, ProviderRow, RequestRow
from sim.hardware import HardwareProfile, sample_pool
from sim.instant import InstantBackend
from sim.invariants import RequestCount, SecondBookkeeper
from sim.ledger import SimChain
from sim.loop import Environment
from sim.nodes import AggregatorNode, GatewayNode, ProviderNode, Surroundings
from sim.oracle import Oracle
from sim.result import Result
from sim.rng import Substreams
from sim.rules import Links
from sim.scenario import Scenario, plug_name
from sim.service_time import SimBackend
from sim.signer import SimSigner, SimVerifier
from sim.topology import Topology
from sim.trace import RunTrace
from sim.transport import Network
from sim.workload import Workload

MODEL_NAME = "llama3.1:8b"
MODEL = ModelId(hashlib.sha256(b"QUIVer/simulated model/llama3.1:8b").digest())
CHAIN_ID, CONTRACT = 31337, Address(hashlib.sha256(b"QUIVer/simulated contract").digest()[:20])
# The faucet of the simulated chain gives each gateway enough for all its channels and their top-ups.
FAUCET_CREDITS = 10**15
# Clients leave max_tokens at this unless the trace's answer is longer.
MAX_TOKENS = 1024
# Prices vary between providers by this log-standard deviation: an assumption.
PRICE_SIGMA = 0.2
# How often the progress bar moves, simulated seconds.
PROGRESS_S = 5.0


class World:
    """`World(scenario, seed).run() -> Result`. A world runs once."""

    def __init__(self, scenario: Scenario, seed: int = 1, *, record: bool = False) -> None:
        self.scenario = scenario
        self.seed = seed
        self.env = Environment()
        self.streams = Substreams(seed)
        self.trace = RunTrace(record=record)
        self.run_id = f"{scenario.hash()}-{seed}"
        self.policy_name = plug_name(scenario.policy)
        self.collector = Collector(run_id=self.run_id, seed=seed, policy=self.policy_name)
        self.books = SecondBookkeeper()
        self.counts = RequestCount()
        for sink in (self.collector.observe, self.books.observe, self.counts.observe):
            self.trace.subscribe(sink)
        self.workload = self._scale(scenario.load_workload(seed))
        self._outputs: dict[RequestId, int] = {}
        self._build()

    # ---- building

    def _build(self) -> None:
        scenario, streams = self.scenario, self.streams
        nodes = scenario.providers + scenario.gateways + 1
        self.topology = Topology.named(scenario.topology, nodes, seed=self.seed, fallback=scenario.fallback)
        links = Links.realistic(self.topology, streams, loss=scenario.loss, jitter=scenario.jitter)
        self.network = Network(
            self.env, links, self.trace, params=scenario.params, encoded=scenario.frames == "encoded"
        )
        verifier = SimVerifier(mode=scenario.signatures)
        aggregator = SimSigner(self.seed, "aggregator", mode=scenario.signatures)
        self.contract = Contract(
            chain_id=CHAIN_ID, contract=CONTRACT, aggregator=aggregator.account, params=scenario.params,
            verify_session=verifier.verify_session_now,
        )  # fmt: skip
        self.chain = SimChain(self.contract, SimClock(self.env), trace=self.trace, block_time_s=scenario.block_time_s)
        around = Surroundings(
            env=self.env, network=self.network, chain=self.chain, trace=self.trace, streams=streams, verifier=verifier,
            params=scenario.params, signatures=scenario.signatures, clock_skew_ms=scenario.clock_skew_ms, seed=self.seed,
        )  # fmt: skip
        self.aggregator = AggregatorNode(around, "aggregator", nodes - 1)
        self.profiles = sample_pool(scenario.providers, streams.stream("pool", "hardware"), scenario.hardware)
        self.providers = [self._provider(around, number) for number in range(scenario.providers)]
        given = None
        if scenario.discovery == "given":
            given = [node.runtime.transport.local_info() for node in self.providers]
        make = self._policy_factory()
        self.gateways = [
            GatewayNode(
                around,
                f"gateway-{number}",
                scenario.providers + number,
                policy=make(),
                models={MODEL_NAME: MODEL},
                given=given,
            )
            for number in range(scenario.gateways)
        ]
        for node in (*self.providers, *self.gateways, self.aggregator):
            self.collector.names[node.peer_id] = node.name

    def _slots(self, profile: HardwareProfile) -> int:
        return self.scenario.slots or profile.slots

    def _provider(self, around: Surroundings, number: int) -> ProviderNode:
        scenario, name, profile = self.scenario, f"provider-{number}", self.profiles[number]
        slots = self._slots(profile)
        installed = InstalledModel(
            name=MODEL_NAME, model=MODEL, size_bytes=4_920_000_000, warm=True, context_tokens=8192
        )
        factor = self.streams.stream(name, "price").lognormvariate(0.0, PRICE_SIGMA)
        price = Price(prompt=round(50_000 * factor), completion=round(150_000 * factor))
        served = ServedModel(
            installed=installed, price=price, prefill_tps=profile.prefill_tps, decode_tps=profile.decode_tps
        )
        chunk = 1 if scenario.chunks == "token" else scenario.chunk_tokens

        def backend() -> Any:
            if scenario.service == "instant":
                return InstantBackend([installed], output_tokens=self._outputs.__getitem__, chunk_tokens=chunk)
            return SimBackend(
                profile, [installed], self.streams, output_tokens=self._outputs.__getitem__, slots=slots,
                chunk_tokens=chunk, build=profile.name,
            )  # fmt: skip

        return ProviderNode(
            around, name, number, make_backend=backend, served=[served], profile=profile, slots=slots,
            queue_max=scenario.queue_max, region=self.topology.region_of(number), aggregator=self.aggregator.peer_id,
        )  # fmt: skip

    def _policy_factory(self) -> Callable[[], Policy]:
        policy = self.scenario.policy
        if policy == "oracle" or policy is Oracle:
            return lambda: Oracle(self._true_wait_s)
        return resolve(policy)

    def _true_wait_s(self, peer: bytes) -> float:
        """Ground truth for the oracle: expected time to serve a mean request sent to this provider now, seconds."""
        node = self._by_peer.get(peer)
        if node is None or not node.up:
            return float("inf")
        ahead = node.service.admission.admitted
        profile, slots = node.profile, node.slots
        context = self._mean_in + self._mean_out / 2
        served_s = profile.prefill_s(self._mean_in) + self._mean_out * profile.step_s(min(ahead + 1, slots), context)
        full_s = profile.prefill_s(self._mean_in) + self._mean_out * profile.step_s(slots, context)
        return max(0, ahead + 1 - slots) * full_s / slots + served_s

    def compute_capacity(self) -> float:
        """Requests per second the pool can serve at most: each machine with all slots busy, mean lengths of the workload."""
        total, mean_in, mean_out = 0.0, *self._mean_lengths(self.scenario.load_workload(self.seed))
        for profile in self.profiles if hasattr(self, "profiles") else self._pool():
            slots = self._slots(profile)
            step_s = profile.step_s(slots, mean_in + mean_out / 2)
            total += 1.0 / (profile.prefill_s(mean_in) + mean_out * step_s / slots)
        return total

    def _pool(self) -> list[HardwareProfile]:
        return sample_pool(self.scenario.providers, self.streams.stream("pool", "hardware"), self.scenario.hardware)

    @staticmethod
    def _mean_lengths(workload: Workload) -> tuple[float, float]:
        return float(np.mean(workload.input_tokens)), float(np.mean(workload.output_tokens))

    def _scale(self, workload: Workload) -> Workload:
        scenario = self.scenario
        self._mean_in, self._mean_out = (int(mean) or 1 for mean in self._mean_lengths(workload))
        if scenario.load is not None:
            workload = workload.at_rate(scenario.load * self.compute_capacity())
        elif scenario.arrivals != 1.0:
            workload = workload.scaled(scenario.arrivals)
        if scenario.duration_s > workload.span_s:
            workload = workload.lasting(scenario.duration_s)
        return workload.clip(scenario.duration_s)

    # ---- running

    def run(self, *, progress: bool = True) -> Result:
        """Simulate, settle and check; a second call is a mistake."""
        began_wall, began_cpu = time.perf_counter(), time.process_time()
        self._by_peer = {node.peer_id: node for node in self.providers}
        # Nothing that was built is garbage: keep the collector from walking it over and over.
        gc.collect()
        gc.freeze()
        old = gc.get_threshold()
        gc.set_threshold(100_000, 50, 100)
        try:
            with tqdm(
                total=len(self.workload),
                unit="req",
                disable=not progress,
                desc=f"{self.scenario.name} seed {self.seed}",
            ) as bar:
                self._bar = bar
                self.env.run_coroutine(self._main())
            self._check()
        finally:
            gc.set_threshold(*old)
            gc.unfreeze()
            self.env.close()
        return Result.of(
            self, wall_s=time.perf_counter() - began_wall, cpu_s=time.process_time() - began_cpu,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )  # fmt: skip

    async def _main(self) -> None:
        clock = SimClock(self.env)
        await self._start(clock)
        self.collector.start_s = clock.now()
        async with Nursery() as churn:
            for node in self.providers:
                churn.start(self._live(node, clock))
            await self._clients(clock)
            self.serving_s = clock.now() - self.collector.start_s
            churn.cancel()
        await self._settle(clock)

    async def _start(self, clock: SimClock) -> None:
        """Everybody joins; gateways find providers and open channels before the first client asks."""
        for gateway in self.gateways:
            self.contract_deposit(gateway.signer.account)
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
        async with clock.deadline(120.0):
            while not all(gateway.service.purse.links for gateway in self.gateways):
                await clock.sleep(1.0)
        await clock.sleep(4 * self.scenario.block_time_s + 1.0)

    def contract_deposit(self, account: Address) -> None:
        """The faucet: credits appear, and the trace says so."""
        event = self.contract.apply(Deposit(sender=account, amount=FAUCET_CREDITS), EPOCH_MS)
        self.chain.events.append(event)
        self.trace.emit(LedgerMoved(at_s=self.env.now, node=self.aggregator.peer_id, event=event))

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

    async def _clients(self, clock: SimClock) -> None:
        """Open loop: a native SimPy process lets each request of the workload begin at its time."""
        start_s, rng = clock.now(), self.streams.stream("world", "clients")
        async with Nursery() as nursery:

            def arrivals() -> Any:
                for number, arrival_s in enumerate(self.workload.arrival_s.tolist()):
                    delay_s = start_s + arrival_s - self.env.now
                    if delay_s > 0:
                        yield self.env.timeout(delay_s)
                    nursery.start(self._client(number, rng.choice(self.gateways), clock))

            await self.env.loop.wrap(self.env.process(arrivals()))
            last_s = start_s + self.scenario.duration_s + self.scenario.drain_s
            while len(nursery) and clock.now() < last_s:
                await clock.sleep(0.25)
            self.unfinished = len(nursery)
            nursery.cancel()

    async def _client(self, number: int, gateway: GatewayNode, clock: SimClock) -> None:
        request = self._request(number, gateway)
        row = RequestRow(
            run_id=self.run_id, seed=self.seed, policy=self.policy_name, request_id=request.request_id.hex(),
            gateway=gateway.name, region=self.topology.region_of(gateway.index), model=MODEL_NAME, qos=request.qos.value,
            arrived_s=clock.now() - self.collector.start_s, prompt_tokens=request.prompt_tokens_estimate,
        )  # fmt: skip
        self.collector.requests[request.request_id] = row
        events = gateway.service.handle(request, Principal(name=f"client-{number % 1000}"))
        try:
            async for event in events:
                now_s = clock.now() - self.collector.start_s
                if isinstance(event, TokenChunk):
                    if row.first_token_s is None:
                        row.first_token_s = now_s
                    continue
                row.finished_s = now_s
                if isinstance(event, Final):
                    row.on_final(event)
                elif isinstance(event, Failure):
                    row.on_failure(event)
        except (RequestRejected, Busy):
            row.finished_s = clock.now() - self.collector.start_s
        finally:
            await events.aclose()  # type: ignore[attr-defined]
            self._outputs.pop(request.request_id, None)
        self._bar.update(1)

    def _request(self, number: int, gateway: GatewayNode) -> InferenceRequest:
        request_id = RequestId(self.streams.digest("request", number)[:16])
        output = self.scenario.output_tokens or int(self.workload.output_tokens[number])
        self._outputs[request_id] = output
        return InferenceRequest(
            request_id=request_id, model=MODEL_NAME, dialect=Dialect.NATIVE, body=b"{}",
            max_tokens=max(MAX_TOKENS, output) if self.scenario.output_tokens is None else output,
            prompt_tokens_estimate=int(self.workload.input_tokens[number]),
            deadline_ms=gateway.clock.utc_ms() + round(self.scenario.params.request_timeout_s * 1000),
            prefix_hashes=self.workload.prefix_hashes(number),
        )  # fmt: skip

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
        self.contract.validate()
        self.books.compare(self.contract)
        # A cancelled client reports its outcome as cancelled in the trace: unfinished ones are among those.
        self.counts.check(0)
        for node in self.providers:
            node.service.admission.validate()
            for channel in node.service.channels.values():
                channel.validate()
        for gateway in self.gateways:
            gateway.service.table.validate()

    def provider_rows(self) -> list[ProviderRow]:
        """One row a provider, after the run."""
        rows = []
        for node in self.providers:
            served = self.collector.served.get(node.peer_id, [0, 0])
            channels = node.service.channels.values()
            rows.append(
                ProviderRow(
                    run_id=self.run_id, seed=self.seed, policy=self.policy_name, provider=node.name, region=node.region,
                    hardware=node.profile.name, slots=node.slots, prompt_price=node.served[0].price.prompt,
                    completion_price=node.served[0].price.completion, completed=served[0], completion_tokens=served[1],
                    earned_credits=sum(channel.log.acknowledged.cum for channel in channels),
                    claimed_credits=self.contract.balance(node.signer.account),
                )
            )  # fmt: skip
        return rows


def make_churn(text: str) -> Churn:
    """`none`, `spot`, `ipfs`, or departures per hour."""
    makers: dict[str, Callable[[], Churn]] = {"none": NoChurn, "spot": spot, "ipfs": ipfs}
    return makers[text]() if text in makers else per_hour(float(text))
