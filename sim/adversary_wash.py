"""Wash trading: a payer and providers of one owner sign for answers that nobody computed, to look busy and trusted.

Every signature is true, every credit their own: receipts alone prove nothing here, only who pays whom does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quiver import trace
from quiver.identity.signing import ack_domain
from quiver.ids import PeerId, RequestId, compute_channel_id
from quiver.provider.channel import ProviderChannel
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.log import ProviderLog
from quiver.receipts.signatures import sign_acknowledgement, sign_receipt
from quiver.units import compute_cost_credits
from quiver.values.ledger import OpenChannel
from quiver.values.receipt import ReceiptBody
from sim.adversary_providers import choose
from sim.signer import SimSigner

if TYPE_CHECKING:
    from sim.nodes import ProviderNode
    from sim.population import Population


@dataclass(frozen=True, kw_only=True)
class WashRing:
    """`share` of the providers invent an answer of `tokens` tokens every `every_s` seconds each, and one payer signs for all."""

    share: float = 0.2
    every_s: float = 10.0
    tokens: int = 300

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """Providers, by share; their honest customers are served as ever."""
        chosen = choose(population.providers, self.share, rng)
        around = chosen[0].around
        payer = SimSigner(around.seed, "wash-payer", mode=around.signatures)
        for node in chosen:
            node.at_start.append(lambda node=node: self._trade(population, node, payer, random.Random(rng.random())))
        return {node.peer_id: "wash" for node in chosen}

    async def _trade(self, population: Population, node: ProviderNode, payer: SimSigner, rng: random.Random) -> None:
        clock, params, view = node.clock, node.around.params, node.around.chain.view(payer.account, payer.peer_id)
        population.deposit(payer.account, clock.now())
        nonce = population.providers.index(node)
        opened = OpenChannel(
            sender=payer.account, provider=node.signer.account, session=payer.session_address,
            amount=params.channel_deposit_credits, nonce=nonce,
        )  # fmt: skip
        channel_id = compute_channel_id(
            ack_domain(view.chain_id, view.contract), payer.account, node.signer.account, nonce
        )
        if view.channel(channel_id) is None:  # there already after the node's power was cut
            await view.submit(opened)
        state = view.channel(channel_id)
        assert state is not None, "its deposit is large enough"
        terms = ChannelTerms(
            chain_id=view.chain_id, contract=view.contract, channel=state.channel,
            provider_key=node.signer.public_key, payer=payer.account,
        )  # fmt: skip
        channel = ProviderChannel(state, ProviderLog.load(node.store, terms), params)
        node.service.channels[state.channel] = channel
        price = node.served[0].price
        amount = compute_cost_credits(
            prompt_tokens=self.tokens, completion_tokens=self.tokens, prompt_price=price.prompt,
            completion_price=price.completion, minimum_credits=price.minimum_credits,
        )  # fmt: skip
        while channel.log.head.cum + amount <= state.locked:
            await clock.sleep(self.every_s * (0.5 + rng.random()))
            await self._invent(node, channel, payer, amount, rng)

    async def _invent(
        self, node: ProviderNode, channel: ProviderChannel, payer: SimSigner, amount: int, rng: random.Random
    ) -> None:
        terms, head, at_s = channel.log.terms, channel.log.head, node.clock.now()
        body = ReceiptBody(
            chain_id=terms.chain_id, contract=terms.contract, channel=terms.channel, request_id=RequestId(rng.randbytes(16)),
            seq=head.seq + 1, provider_key=terms.provider_key, payer=terms.payer, request_hash=rng.randbytes(32),
            response_hash=rng.randbytes(32), model=node.served[0].installed.model, prompt_tokens=self.tokens,
            completion_tokens=self.tokens, amount=amount, cum=head.cum + amount, issued_ms=node.clock.utc_ms(),
        )  # fmt: skip
        await node.store.commit(channel.on_issued(await sign_receipt(node.signer, body)))
        node.around.trace.emit(trace.ReceiptIssued(
            at_s=at_s, node=node.peer_id, request_id=body.request_id, channel=body.channel, seq=body.seq, amount=amount,
            cum=body.cum,
        ))  # fmt: skip
        ack = await sign_acknowledgement(payer, terms, channel.log.head)
        await node.store.commit(channel.on_acknowledged(ack))
        node.around.trace.emit(
            trace.ReceiptAcknowledged(at_s=at_s, node=payer.peer_id, channel=ack.channel, seq=ack.seq, cum=ack.cum)
        )
