"""Payers that run: a gateway that takes answers, signs for none from some moment on, and asks for its deposits back."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from quiver.errors import QuiverError
from quiver.gateway.service import GatewayService
from quiver.ids import PeerId
from quiver.ports import ProtocolSpec
from quiver.values.frames import AckFrame, Authorise
from quiver.values.ledger import RequestExit
from sim.adversary_providers import Around, choose

if TYPE_CHECKING:
    from sim.nodes import GatewayNode
    from sim.population import Population


@dataclass(frozen=True, kw_only=True)
class Runaway:
    """`share` of the gateways; from `after_s` on nothing they owe is signed for, and every channel is to be closed."""

    share: float = 0.5
    after_s: float = 20.0

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """Gateways, by share, but never all."""
        chosen = choose(population.gateways, self.share, rng)[: max(1, len(population.gateways) - 1)]
        for node in chosen:
            self._turn(node)
        return {node.peer_id: "run-away" for node in chosen}

    def _turn(self, node: GatewayNode) -> None:
        silent = Silent(node.runtime.transport)
        node.runtime = dataclasses.replace(node.runtime, transport=silent)
        find = node.service.pool.discovery._find_providers
        node.service = GatewayService(node.runtime, node.policy, node.service.models, find)
        node.at_start.append(lambda: self._run_away(node, silent))

    async def _run_away(self, node: GatewayNode, silent: Silent) -> None:
        await node.clock.sleep(self.after_s)
        silent.is_silent = True
        for link in list(node.service.purse.links.values()):
            leaves = RequestExit(sender=node.signer.account, channel=link.channel.state.channel)
            try:
                await node.runtime.ledger.submit(leaves)
            except QuiverError:
                continue  # closed or closing already


class Silent(Around):
    """A transport on which no acknowledgement leaves once `is_silent`."""

    is_silent = False

    async def open(self, peer: PeerId, protocol: ProtocolSpec, *, timeout_s: float) -> Any:
        """A stream that may swallow what is sent on it."""
        return Swallowing(await self.inner.open(peer, protocol, timeout_s=timeout_s), self)


class Swallowing(Around):
    """A stream of `Silent`."""

    def __init__(self, inner: Any, transport: Silent) -> None:
        super().__init__(inner)
        self._transport = transport

    async def send(self, frame: Any) -> None:
        """Everything but the payer's word."""
        if self._transport.is_silent and isinstance(frame, AckFrame):
            return
        if self._transport.is_silent and isinstance(frame, Authorise):
            frame = msgspec.structs.replace(frame, last=None)
        await self.inner.send(frame)
