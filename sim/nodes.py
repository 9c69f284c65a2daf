"""The nodes of a world: the protocol's roles on simulated ports. A node can crash and start again with what was durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from quiver.aggregator.service import AggregatorService
from quiver.dht.service import DhtService
from quiver.gateway.discovery import FindProviders
from quiver.gateway.hedging import HedgeTerms
from quiver.gateway.service import GatewayService
from quiver.ids import ModelId, PeerId
from quiver.params import Params
from quiver.ports import InferenceBackend
from quiver.provider.models import ServedModel, content_key
from quiver.provider.service import ProviderService
from quiver.provider.settler import Settler
from quiver.receipts.fraud.detector import Detector
from quiver.runtime import Runtime
from quiver.selection.policy import Policy
from quiver.values.peer import PeerInfo
from sim.clock import SimClock
from sim.hardware import HardwareProfile
from sim.ledger import SimChain
from sim.loop import Environment
from sim.rng import Substreams
from sim.signer import SimSigner, SimVerifier
from sim.store import MemoryStore
from sim.trace import RunTrace
from sim.transport import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all nodes of a world share."""

    env: Environment
    network: Network
    chain: SimChain
    trace: RunTrace
    streams: Substreams
    verifier: SimVerifier
    params: Params
    signatures: str
    clock_skew_ms: float
    seed: int


class Node:
    """One participant. Subclasses say what runs on it."""

    def __init__(self, around: Surroundings, name: str, index: int) -> None:
        self.around = around
        self.name = name
        self.index = index
        self.signer = SimSigner(around.seed, name, mode=around.signatures)
        self.store = MemoryStore()
        self.starts = 0
        skew = around.streams.stream(name, "clock").gauss(0.0, around.clock_skew_ms)
        self.clock = SimClock(around.env, offset_ms=skew)
        self._tasks: list[asyncio.Task[Any]] = []
        self.at_start: list[Callable[[], Coroutine[Any, Any, Any]]] = []
        "What else begins with each start, as a task: what an adversary does beside its role."
        self.runtime = self._make_runtime()

    @property
    def peer_id(self) -> PeerId:
        """Its identity."""
        return self.signer.peer_id

    @property
    def up(self) -> bool:
        """Not crashed."""
        return self.runtime.transport.up  # type: ignore[attr-defined,no-any-return]

    def _make_runtime(self) -> Runtime:
        around = self.around
        self.starts += 1
        return Runtime(
            clock=self.clock,
            transport=around.network.node(self.peer_id, index=self.index),
            store=self.store,
            signer=self.signer,
            verifier=around.verifier,
            ledger=around.chain.view(self.signer.account, self.peer_id),
            trace=around.trace,
            rng=around.streams.stream(self.name, "role", self.starts),
            params=around.params,
        )

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """A task that ends with the node."""
        loop = self.around.env.loop
        task = loop.create_task(coroutine, name=f"{self.name}/{len(self._tasks)}")
        task.add_done_callback(loop.raise_error_of)
        self._tasks.append(task)

    def _begin(self) -> None:
        for make in self.at_start:
            self.spawn(make())

    def crash(self) -> None:
        """Power off: tasks, connections and uncommitted writes are gone."""
        self.runtime.transport.crash()  # type: ignore[attr-defined]
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self.store.crash()

    def revive(self) -> None:
        """Power on with what was durable."""
        self.runtime = self._make_runtime()


class ProviderNode(Node):
    """Sells one model."""

    def __init__(
        self, around: Surroundings, name: str, index: int, *, make_backend: Callable[[], InferenceBackend],
        served: Sequence[ServedModel], profile: HardwareProfile, slots: int, queue_max: int, region: str, aggregator: PeerId,
    ) -> None:  # fmt: skip
        super().__init__(around, name, index)
        self.profile = profile
        self.slots = slots
        self.region = region
        self.served = served
        self._queue_max = queue_max
        self._make_backend = make_backend
        self._aggregator = aggregator
        self._build()

    def _build(self) -> None:
        self.service = ProviderService(
            self.runtime, self._make_backend(), self.served, slots=self.slots, queue_max=self._queue_max,
            hardware=self.profile.name, region=self.region,
        )  # fmt: skip
        self.settler = Settler(
            self.runtime, self.service.channels, self._aggregator, poster=self.around.chain.contract.aggregator
        )
        self.dht = DhtService(self.runtime)

    async def start(self, known: Sequence[PeerInfo], *, announce: bool) -> None:
        """Serve, join and announce."""
        await self.service.start()
        self.spawn(self.service.run())
        self._begin()
        self.spawn(self.settler.run())
        if announce:
            await self.dht.bootstrap(known)
            self.spawn(self.dht.run())
            for served in self.served:
                await self.dht.provide(content_key(served.installed.model))

    def revive(self) -> None:
        super().revive()
        self._build()


class GatewayNode(Node):
    """Serves clients."""

    def __init__(
        self, around: Surroundings, name: str, index: int, *, policy: Policy, models: dict[str, ModelId],
        given: Sequence[PeerInfo] | None, detectors: Sequence[Detector] = (), hedging: HedgeTerms | None = None,
    ) -> None:  # fmt: skip
        super().__init__(around, name, index)
        self.policy = policy
        self.dht = DhtService(self.runtime)
        self.service = GatewayService(
            self.runtime, policy, models, self._finder(given), detectors=detectors, hedging=hedging
        )

    def _finder(self, given: Sequence[PeerInfo] | None) -> FindProviders:
        async def find(model: ModelId) -> Sequence[PeerInfo]:
            return given if given is not None else await self.dht.find_providers(content_key(model))

        return find

    async def start(self, known: Sequence[PeerInfo]) -> None:
        """Join if there is a DHT to join, find providers, open channels."""
        if known:
            await self.dht.bootstrap(known)
            self.spawn(self.dht.run())
        self.spawn(self.service.run())
        self._begin()


class AggregatorNode(Node):
    """Collects receipts and commits epochs."""

    def __init__(
        self, around: Surroundings, name: str, index: int, *, detectors: Sequence[Detector] = ()
    ) -> None:  # fmt: skip
        super().__init__(around, name, index)
        self.detectors = detectors
        self.service = AggregatorService(self.runtime, detectors=detectors)

    async def start(self) -> None:
        """Close epochs and look for fraud from now on."""
        self.spawn(self.service.run())
        self.spawn(self.service.fraud.run())
