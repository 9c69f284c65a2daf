"""A small stage for stories about the roles: simulated ports, a typist for an engine, and a policy that says whom it takes."""

from __future__ import annotations

import hashlib

from quiver.errors import Unavailable
from quiver.ids import Address, ModelId, RequestId
from quiver.params import Params
from quiver.provider.models import ServedModel
from quiver.provider.pricing import Price
from quiver.runtime import Nursery
from quiver.settlement.contract import Contract
from quiver.values.backend import InstalledModel, Piece
from quiver.values.decision import Decision, Scored
from quiver.values.ledger import Deposit
from quiver.values.request import Dialect, InferenceRequest, Principal
from sim.clock import EPOCH_MS, SimClock
from sim.hardware import profile
from sim.ledger import SimChain
from sim.loop import Environment
from sim.nodes import AggregatorNode, GatewayNode, ProviderNode, Surroundings
from sim.rng import Substreams
from sim.signer import SimSigner, SimVerifier
from sim.trace import RunTrace
from sim.transport import Network, UniformLinks

CHAIN_ID, HUB = 31337, Address(b"\x0c" * 20)
NAME, MODEL = "tiny", ModelId(hashlib.sha256(b"tiny").digest())
INSTALLED = InstalledModel(name=NAME, model=MODEL, size_bytes=1)
# 100 credits a prompt token, 1,000 a completion token: sums are easy by hand.
PRICE = Price(prompt=100_000_000, completion=1_000_000_000, minimum_credits=1)
# A connection to a node that lost its power idles out after this.
IDLE_S = 1.0


class Typist:
    """Types `tokens` tokens "tok ", one every `every_s`, after `prefill_s`; breaks off after `breaks_after` of them."""

    def __init__(self, clock, *, tokens=5, every_s=0.1, prefill_s=0.5, breaks_after=None):
        self.clock, self.tokens, self.every_s, self.prefill_s = clock, tokens, every_s, prefill_s
        self.breaks_after = breaks_after
        self.typing = 0

    async def models(self):
        return [INSTALLED]

    async def health(self):
        return None

    async def close(self):
        """Nothing is held."""

    async def generate(self, request):
        self.typing += 1
        try:
            await self.clock.sleep(self.prefill_s)
            for number in range(1, self.tokens + 1):
                if self.breaks_after is not None and number > self.breaks_after:
                    raise Unavailable("the engine died")
                last = number == self.tokens
                yield Piece(
                    text="tok ", tokens=1, prompt_tokens=request.prompt_tokens_estimate,
                    done_reason="stop" if last else None, completion_tokens=number if last else None,
                )  # fmt: skip
                if not last:
                    await self.clock.sleep(self.every_s)
        finally:
            self.typing -= 1


class InOrder:
    """Takes the candidates in the order the stage lists its providers."""

    name = "in-order"

    def __init__(self):
        self.order = []

    def choose(self, request, candidates, *, now, rng):
        peers = sorted((candidate.peer for candidate in candidates), key=self.order.index)
        return Decision(ranked=tuple(Scored(peer=peer, score=0.0, reason="") for peer in peers), policy=self.name)


class Events(list):
    """What the roles said."""

    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]


class Stage:
    """`providers` nodes, one gateway, one aggregator; `play(story)` runs `await story(stage)` in virtual time."""

    signatures = "modelled"

    def __init__(self, providers=1, *, slots=2, queue_max=2, encoded=False, params=None, **typist):
        self.params = params or Params(receipt_every_tokens=4, first_credit=1_000_000, credit_limit_max=2_000_000,
                                       channel_deposit_credits=4_000_000, unproven_credit_max=8_000_000,
                                       load_refresh_s=2.0, receipts_interval_s=1.0, epoch_ms=10_000)  # fmt: skip
        self.env = Environment()
        self.clock = SimClock(self.env)
        self.trace, self.events = RunTrace(), Events()
        self.trace.subscribe(self.events.append)
        network = self.make_network(encoded)
        verifier = SimVerifier(mode=self.signatures)
        self.contract = Contract(
            chain_id=CHAIN_ID, contract=HUB, aggregator=self.make_signer("aggregator").account, params=self.params,
            verify_session=verifier.verify_session_now,
        )  # fmt: skip
        self.chain = SimChain(self.contract, self.clock, trace=self.trace, block_time_s=0.5)
        around = Surroundings(
            env=self.env, network=network, chain=self.chain, trace=self.trace, streams=Substreams(1), verifier=verifier,
            params=self.params, signatures=self.signatures, clock_skew_ms=0.0, seed=1,
        )  # fmt: skip
        self.network, self.around = network, around
        self.aggregator = AggregatorNode(around, "aggregator", providers + 1)
        served = ServedModel(installed=INSTALLED, price=PRICE, prefill_tps=100.0, decode_tps=10.0)
        self.typists = [Typist(self.clock, **typist) for _ in range(providers)]
        self.providers = [
            ProviderNode(
                around, f"provider-{n}", n, make_backend=lambda n=n: self.typists[n], served=[served],
                profile=profile("gpu-3090"), slots=slots, queue_max=queue_max, region="", aggregator=self.aggregator.peer_id,
            )
            for n in range(providers)
        ]  # fmt: skip
        policy = InOrder()
        policy.order = [node.peer_id for node in self.providers]
        self.given = [node.runtime.transport.local_info() for node in self.providers]
        self.gateway = GatewayNode(around, "gateway", providers, policy=policy, models={NAME: MODEL}, given=self.given)

    def make_network(self, encoded):
        return Network(
            self.env, UniformLinks(0.01), self.trace, params=self.params, encoded=encoded, idle_timeout_s=IDLE_S
        )

    def make_signer(self, name):
        return SimSigner(1, name, mode=self.signatures)

    def play(self, story):
        async def main():
            for node in (self.gateway, self.aggregator):
                event = self.contract.apply(Deposit(sender=node.signer.account, amount=10**9), EPOCH_MS)
                self.chain.events.append(event)
            await self.aggregator.start()
            for node in self.providers:
                await node.start([], announce=False)
            await self.gateway.start([])
            await self.clock.sleep(2.0)
            await story(self)
            self.validate()

        try:
            self.env.run_coroutine(main())
        finally:
            self.env.close()

    def validate(self):
        self.contract.validate()
        self.gateway.service.table.validate()
        for link in self.gateway.service.purse.links.values():
            link.channel.validate()
        for node in self.providers:
            node.service.admission.validate()
            for channel in node.service.channels.values():
                channel.validate()

    # ---- what stories do

    def request(self, number=1, *, max_tokens=100, body=b"{}", prompt_tokens=10):
        return InferenceRequest(
            request_id=RequestId(number.to_bytes(16, "big")), model=NAME, dialect=Dialect.NATIVE, body=body,
            max_tokens=max_tokens, prompt_tokens_estimate=prompt_tokens, deadline_ms=self.clock.utc_ms() + 60_000,
        )  # fmt: skip

    async def ask(self, number=1, *, seen=None, **request):
        """All events of one request; `seen` receives (time, event) as they come."""
        events = []
        async for event in self.gateway.service.handle(self.request(number, **request), Principal(name="client")):
            events.append(event)
            if seen is not None:
                seen.append((self.clock.now(), event))
        return events

    async def ask_during(self, what, **request):
        """Ask, and run `what` beside it."""
        async with Nursery() as nursery:
            task = nursery.start(self.ask(**request))
            await what
        return task.result()

    async def after(self, seconds, action):
        await self.clock.sleep(seconds)
        action()

    def channel(self, provider=0):
        """The provider's end of the gateway's channel."""
        (channel,) = self.providers[provider].service.channels.values()
        return channel

    def link(self, provider=0):
        return self.gateway.service.purse.links[self.providers[provider].peer_id]
