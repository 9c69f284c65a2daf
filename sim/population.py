"""Who lives in a world: the chain, the providers with their machines, the gateways, the aggregator, each on its node.

Rules of this file: it builds and starts nothing; every draw comes from a substream named by the node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from quiver.ids import Address, ModelId, PeerId
from quiver.provider.models import ServedModel
from quiver.receipts.fraud.registry import judge
from quiver.receipts.fraud.registry import resolve as resolve_detector
from quiver.receipts.history import Book
from quiver.selection.plugin import resolve
from quiver.selection.policy import Policy
from quiver.settlement.contract import Contract
from quiver.trace import LedgerMoved
from quiver.values.backend import InstalledModel
from quiver.values.ledger import Deposit
from sim.adversary import corrupt
from sim.capacity import MachineState, MeanLengths, make_true_wait
from sim.clients import MODEL_NAME, Asked
from sim.clock import EPOCH_MS, SimClock
from sim.collect import Collector, EvidenceRow, ProviderRow
from sim.hardware import HardwareProfile, sample_pool
from sim.ledger import SimChain
from sim.loop import Environment
from sim.machine import Machine, make_backend
from sim.nodes import AggregatorNode, GatewayNode, ProviderNode, Surroundings
from sim.oracle import Oracle
from sim.pricing import ask_price, make_pricing
from sim.rng import Substreams
from sim.rules import Links
from sim.scenario import Scenario
from sim.signer import SimSigner, SimVerifier
from sim.topology import make_topology
from sim.trace import RunTrace
from sim.transport import Network

MODEL = ModelId(hashlib.sha256(b"QUIVer/simulated model/llama3.1:8b").digest())
MODEL_BYTES, MODEL_CONTEXT_TOKENS = 4_920_000_000, 8192
CHAIN_ID, CONTRACT = 31337, Address(hashlib.sha256(b"QUIVer/simulated contract").digest()[:20])
# The faucet of the simulated chain gives each gateway enough for all its channels and their top-ups, the aggregator for its bond.
FAUCET_CREDITS = 10**15


def draw_profiles(scenario: Scenario, streams: Substreams) -> list[HardwareProfile]:
    """The machine of each provider."""
    return sample_pool(scenario.providers, streams.stream("pool", "hardware"), scenario.hardware)


def count_slots(scenario: Scenario, profile: HardwareProfile) -> int:
    """Streams a machine serves at once."""
    return scenario.slots or profile.slots


class Population:
    """Nodes of one world; providers come first, then gateways, then the aggregator, in the topology's numbering."""

    def __init__(
        self, scenario: Scenario, seed: int, *, env: Environment, streams: Substreams, trace: RunTrace,
        profiles: list[HardwareProfile], mean: MeanLengths, asked: Asked,
    ) -> None:  # fmt: skip
        self.scenario = scenario
        self.profiles = profiles
        self._streams = streams
        self._trace = trace
        self._asked = asked
        self._pricing = make_pricing(scenario.pricing)
        nodes = scenario.providers + scenario.gateways + 1
        self.topology = make_topology(scenario.topology, nodes, seed=seed, fallback=scenario.fallback)
        links = Links.realistic(
            self.topology, streams, loss=scenario.loss, jitter=scenario.jitter, extra=scenario.link_plugs
        )
        self.network = Network(env, links, trace, params=scenario.params, encoded=scenario.frames == "encoded")
        verifier = SimVerifier(mode=scenario.signatures)
        self.contract = Contract(
            chain_id=CHAIN_ID, contract=CONTRACT, params=scenario.params, verify_session=verifier.verify_session_now,
            aggregator=SimSigner(seed, "aggregator", mode=scenario.signatures).account,
        )  # fmt: skip
        self.chain = SimChain(self.contract, SimClock(env), trace=trace, block_time_s=scenario.block_time_s)
        around = Surroundings(
            env=env, network=self.network, chain=self.chain, trace=trace, streams=streams, verifier=verifier,
            params=scenario.params, signatures=scenario.signatures, clock_skew_ms=scenario.clock_skew_ms, seed=seed,
        )  # fmt: skip
        self.detectors = [resolve_detector(plug)() for plug in scenario.detector_plugs]
        self.aggregator = AggregatorNode(around, "aggregator", nodes - 1, detectors=self.detectors)
        self.providers = [self._provider(around, number) for number in range(scenario.providers)]
        self._provider_of: dict[PeerId, ProviderNode] = {node.peer_id: node for node in self.providers}
        make = self._policy_factory(mean)
        given = [node.runtime.transport.local_info() for node in self.providers]
        self.gateways = [
            GatewayNode(
                around, f"gateway-{number}", scenario.providers + number, policy=make(), models={MODEL_NAME: MODEL},
                given=given if scenario.discovery == "given" else None,
                detectors=self.detectors if scenario.distrust else (), hedging=scenario.hedging,
            )
            for number in range(scenario.gateways)
        ]  # fmt: skip

        self.culprits = corrupt(
            scenario.adversary_plugs, self, lambda name: streams.stream("world", name)
        )  # fmt: skip
        "Ground truth: who plays what."
        if self.detectors:
            for gateway in self.gateways:
                gateway.service.purse.book = gateway.service.purse.book or Book()

    def names(self) -> dict[PeerId, str]:
        """Peer id -> simulated name, of every node."""
        return {node.peer_id: node.name for node in (*self.providers, *self.gateways, self.aggregator)}

    def _provider(self, around: Surroundings, number: int) -> ProviderNode:
        scenario, name, profile = self.scenario, f"provider-{number}", self.profiles[number]
        slots = count_slots(scenario, profile)
        installed = InstalledModel(
            name=MODEL_NAME, model=MODEL, size_bytes=MODEL_BYTES, warm=True, context_tokens=MODEL_CONTEXT_TOKENS
        )
        price = ask_price(self._pricing, profile, self._streams.stream(name, "price"))
        served = ServedModel(
            installed=installed, price=price, prefill_tps=profile.prefill_tps, decode_tps=profile.decode_tps
        )
        machine = Machine(
            profile=profile, models=[installed], slots=slots, clock=SimClock(around.env), streams=self._streams,
            chunk_tokens=1 if scenario.chunks == "token" else scenario.chunk_tokens,
            output_tokens=self._asked.output_tokens, prefix_blocks=self._asked.prefix_blocks,
        )  # fmt: skip
        return ProviderNode(
            around, name, number, make_backend=lambda: make_backend(scenario.service, machine), served=[served], profile=profile, slots=slots,
            queue_max=scenario.queue_max, region=self.topology.region_of(number), aggregator=self.aggregator.peer_id,
        )  # fmt: skip

    def _policy_factory(self, mean: MeanLengths) -> Callable[[], Policy]:
        policy = self.scenario.policy
        if policy == "oracle" or policy is Oracle:
            wait_s = make_true_wait(self._look, mean)
            return lambda: Oracle(wait_s)
        return resolve(policy)

    def _look(self, peer: PeerId) -> MachineState | None:
        node = self._provider_of.get(peer)
        if node is None or not node.up:
            return None
        return MachineState(node.profile, node.slots, node.service.admission.admitted)

    def deposit(self, account: Address, now_s: float) -> None:
        """The faucet: credits appear, and the trace says so."""
        event = self.contract.apply(Deposit(sender=account, amount=FAUCET_CREDITS), EPOCH_MS)
        self.chain.events.append(event)
        self._trace.emit(LedgerMoved(at_s=now_s, node=self.aggregator.peer_id, event=event))

    def validate(self) -> None:
        """Every object is sound."""
        self.contract.validate()
        for node in self.providers:
            node.service.admission.validate()
            for channel in node.service.channels.values():
                channel.validate()
        for gateway in self.gateways:
            gateway.service.table.validate()

    def make_provider_rows(self, collector: Collector) -> list[ProviderRow]:
        """One row a provider, after the run."""
        rows = []
        for node in self.providers:
            completed, tokens = collector.served.get(node.peer_id, (0, 0))
            channels = node.service.channels.values()
            rows.append(
                ProviderRow(
                    run_id=collector.run_id, seed=collector.seed, policy=collector.policy, provider=node.name,
                    region=node.region, hardware=node.profile.name, slots=node.slots,
                    prompt_price=node.served[0].price.prompt, completion_price=node.served[0].price.completion,
                    completed=completed, completion_tokens=tokens,
                    earned_credits=sum(channel.log.acknowledged.cum for channel in channels),
                    claimed_credits=self.contract.balance(node.signer.account),
                    adversary=self.culprits.get(node.peer_id, ""),
                )
            )  # fmt: skip
        return rows

    def make_evidence_rows(self, collector: Collector) -> list[EvidenceRow]:
        """The last look of every detector at every provider, by the aggregator and each gateway that kept a book."""
        books = [(self.aggregator.name, self.aggregator.service.fraud.book)]
        for gateway in self.gateways:
            if (book := gateway.service.purse.book) is not None:
                for peer in book.peers():
                    offer = gateway.service.table.offer(peer, MODEL, gateway.clock.now())
                    if offer is not None:
                        book.on_offer(offer)
                books.append((gateway.name, book))
        now_ms = self.aggregator.clock.utc_ms()
        return [
            EvidenceRow(
                run_id=collector.run_id, seed=collector.seed, witness=witness, provider=collector.names[found.peer],
                detector=found.detector, score=found.score, threshold=found.threshold, suspicious=found.is_suspicious,
                adversary=self.culprits.get(found.peer, ""),
            )
            for witness, book in books
            for found in judge(book, self.detectors, now_ms)
        ]  # fmt: skip
