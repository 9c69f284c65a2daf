"""The providers a gateway can use at once: found, asked for their offers, and connected before a client needs them.

Rules of this file: it awaits and moves values; who counts is the table's to say, whom to ask for load the policy's.
"""

from __future__ import annotations

from collections.abc import Sequence

from quiver.errors import QuiverError, SettlementError, Unavailable
from quiver.gateway.discovery import Discovery, FindProviders
from quiver.gateway.link import ProviderLink
from quiver.gateway.purse import Purse
from quiver.ids import ModelId, PeerId
from quiver.runtime import Nursery, Runtime
from quiver.selection.candidates import CandidateTable
from quiver.values.decision import Candidate
from quiver.values.offer import Offer

# Load probes in flight that policies asked for; Prequal sends three for each request.
PROBES_MAX = 256


class ProviderPool:
    """Call `run` as a task."""

    def __init__(self, runtime: Runtime, models: Sequence[ModelId], find_providers: FindProviders) -> None:
        self.runtime = runtime
        self.table = CandidateTable(runtime.params, opening_cost_credits=runtime.ledger.opening_cost_credits)
        self.discovery = Discovery(runtime, self.table, models, find_providers)
        self.purse = Purse(runtime)
        self._models = tuple(models)
        self._probing: dict[PeerId, None] = {}
        self._nursery: Nursery | None = None

    async def run(self) -> None:
        """Keep offers, loads and channels fresh until cancelled."""
        try:
            async with Nursery() as nursery:
                self._nursery = nursery
                for model in self._models:
                    nursery.start(self._discover_always(model))
                nursery.start(self._report_always())
                nursery.start(self._leave_always())
        finally:
            self._nursery = None

    async def _discover_always(self, model: ModelId) -> None:
        while True:
            await self.prepare(model)
            await self.runtime.clock.sleep(self.runtime.params.discovery_refresh_s)

    async def prepare(self, model: ModelId) -> None:
        """Find providers of a model and connect to a random sample of them, up to `channels_max`."""
        try:
            await self.discovery.refresh(model)
        except QuiverError:
            # A failed lookup leaves what we know; the next round tries again.
            pass
        await self._connect_sample(model)

    async def _connect_sample(self, model: ModelId) -> None:
        now = self.runtime.clock.now()
        unconnected = [
            candidate.peer for candidate in self.table.candidates(model, now) if self.purse.link(candidate.peer) is None
        ]
        room = self.runtime.params.channels_max - len(self.purse.links)
        chosen = self.runtime.rng.sample(unconnected, min(max(room, 0), len(unconnected)))
        async with Nursery() as nursery:
            for peer in chosen:
                offer = self.table.offer(peer, model, now)
                if offer is not None:
                    nursery.start(self._try_connect(offer))

    async def _try_connect(self, offer: Offer) -> None:
        try:
            await self.connect(offer)
        except QuiverError:
            self.table.on_channel(offer.provider, ready=False)

    async def connect(self, offer: Offer) -> ProviderLink:
        """The live link to a provider, after opening its channel and dialling if need be."""
        link = self.purse.link(offer.provider)
        if link is not None:
            return link
        if self._nursery is None:
            raise Unavailable("the gateway is not running yet")
        try:
            link = await self.purse.connect(offer, self._nursery)
        except SettlementError as error:
            raise Unavailable(f"no channel to this provider: {error}") from error
        self.table.on_channel(offer.provider, ready=True)
        return link

    async def _report_always(self) -> None:
        """Load reports of the providers we have channels to."""
        while True:
            await self.runtime.clock.sleep(self.runtime.params.load_refresh_s)
            for peer in self.table.peers():
                self.table.on_channel(peer, ready=self.purse.link(peer) is not None)
            await self.discovery.ask(sorted(self.purse.links), None)

    async def _leave_always(self) -> None:
        """Abandoned channels give back what nobody earned."""
        while True:
            await self.runtime.clock.sleep(self.runtime.params.discovery_refresh_s)
            await self.purse.leave()

    def candidates(self, model: ModelId) -> list[Candidate]:
        """Those we are connected to; all that were found while there are none: asking about everybody costs more than a request."""
        now = self.runtime.clock.now()
        return self.table.candidates(model, now, among=self.purse.links) or self.table.candidates(model, now)

    def probe(self, peers: Sequence[PeerId]) -> None:
        """Ask these for their load, beside everything else; one question a peer at a time, none beyond `PROBES_MAX`."""
        if self._nursery is None:
            return
        for peer in peers:
            if peer not in self._probing and len(self._probing) < PROBES_MAX:
                self._probing[peer] = None
                self._nursery.start(self._probe(peer))

    async def _probe(self, peer: PeerId) -> None:
        try:
            await self.discovery.ask([peer], None)
        finally:
            del self._probing[peer]

    def top_up_soon(self, link: ProviderLink) -> None:
        """Lock more credits in a channel that runs low."""
        if self._nursery is not None:
            self.purse.top_up_soon(link, self._nursery)

    async def close(self) -> None:
        """Acknowledge what was delivered, so that nobody waits for its money."""
        for peer in sorted(self.purse.links):
            link = self.purse.link(peer)
            if link is not None:
                try:
                    await link.acknowledge()
                except QuiverError:
                    continue
