"""The stage at packet level, real keys and real QUIC, and a hostile node on it that puts any bytes on any stream."""

from __future__ import annotations

import struct

import msgspec

from quiver.errors import MalformedMessage
from quiver.identity import signing
from quiver.identity.keys import KeyPair
from quiver.ids import RequestId, compute_channel_id
from quiver.provider.metering import Meter
from quiver.provider.pricing import compute_quote
from quiver.quic.limits import Limits
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.signatures import sign_receipt
from quiver.values import frames
from quiver.values.ledger import Deposit, OpenChannel
from quiver.values.offer import Load, Offer, OfferAnswer, SignedOffer
from quiver.values.receipt import ChannelHead, SignedReceipt
from quiver.values.request import Dialect, Qos
from quiver.wire.protocols import ACKS, INFERENCE, OFFER
from sim.packets import PacketNetwork
from sim.rng import Substreams
from sim.signer import derive
from sim.transport import UniformLinks
from tests.scenarios.stage import CHAIN_ID, HUB, IDLE_S, MODEL, NAME, PRICE, Stage

SEED = 1
HOSTILE = "hostile"


class Raw:
    """A protocol of ours whose frames may also be bytes, which are sent as they are."""

    def __init__(self, codec):
        self.id, self.frame_bytes_max, self.fixed_bytes = codec.id, codec.frame_bytes_max, codec.fixed_bytes
        self.decode = codec.decode
        self._codec = codec

    def encode(self, frame):
        return frame if isinstance(frame, bytes) else self._codec.encode(frame)


def instead(**changes):
    """The frame with these fields changed."""
    return lambda frame: [msgspec.structs.replace(frame, **changes)]


def bytes_instead(data):
    """Bytes in the frame's place."""
    return lambda frame: [data]


class PacketNodes:
    """`Network.node` at packet level: a node's keys are those of its name, and everybody knows everybody's address."""

    def __init__(self, env, trace, names):
        self._packets = PacketNetwork(
            env, UniformLinks(0.01), trace, Substreams(SEED), limits=Limits(idle_timeout_s=IDLE_S)
        )
        self._keys = {pair.peer_id: pair for pair in (KeyPair(derive(SEED, name, "seed")) for name in names)}

    def node(self, peer_id, *, index=None):
        made = self._packets.node(self._keys[peer_id], index=index)
        for other in self._packets.nodes.values():
            made.learn(other.local_info())
            other.learn(made.local_info())
        return made


class WireStage(Stage):
    """`stage.hostile` has keys, an address and credits like everybody, and no manners."""

    signatures = "real"

    def __init__(self, providers=1, **stage):
        self._names = ["aggregator", "gateway", HOSTILE, *(f"provider-{n}" for n in range(providers))]
        super().__init__(providers, **stage)
        self.hostile = Hostile(self, index=providers + 2)

    def make_network(self, encoded):
        return PacketNodes(self.env, self.trace, self._names)

    def sizes(self):
        """How much every table holds. Nothing a stranger says may change it."""
        gateway = self.gateway
        return {
            "gateway": (len(gateway.service.table.peers()), len(gateway.service.purse.links), gateway.service.admission.open),
            "dht": [(len(node.dht.table), len(node.dht.records)) for node in (gateway, *self.providers)],
            "providers": [
                (len(node.service.channels), node.service.admission.admitted, node.service.admission.running)
                for node in self.providers
            ],
            "rows": [
                sum(len(rows) for rows in node.store._tables.values())
                for node in (gateway, self.aggregator, *self.providers)
            ],
        }  # fmt: skip


class Hostile:
    """A node by hand."""

    def __init__(self, stage, index):
        self.stage = stage
        self.signer = stage.make_signer(HOSTILE)
        self.transport = stage.network.node(self.signer.peer_id, index=index)
        self.tamper = {}
        "Kind of frame -> function (frame) -> frames or bytes to send in its place."
        self.offer = {}
        "Fields of its offer that it changes before it signs."
        self.bill = {}
        "Fields of its receipts that it changes before it signs."
        self.head = ChannelHead()

    @property
    def peer_id(self):
        return self.signer.peer_id

    async def ask(self, peer, codec, data):
        """Send one frame or any bytes as an rpc."""
        return await self.transport.rpc(peer, Raw(codec), data, timeout_s=5.0)

    async def open(self, peer, codec):
        return await self.transport.open(peer, Raw(codec), timeout_s=5.0)

    def streams_open(self, peer):
        """Streams it still holds at a peer."""
        link = self.transport.swarm.link_to(peer)
        return 0 if link is None else link.driver.streams_open

    # ---- as a payer

    async def buy(self, provider, *, locked=4_000_000):
        """A channel of its own to `provider`, and an inference stream that is authorised for it."""
        stage, signer = self.stage, self.signer
        event = stage.contract.apply(Deposit(sender=signer.account, amount=locked), stage.clock.utc_ms())
        stage.chain.events.append(event)
        ledger = stage.chain.view(signer.account, signer.peer_id)
        await ledger.submit(
            OpenChannel(
                sender=signer.account, provider=provider.signer.account, session=signer.session_address, amount=locked,
                nonce=0,
            )
        )  # fmt: skip
        domain = signing.ack_domain(CHAIN_ID, HUB)
        self.channel = compute_channel_id(domain, signer.account, provider.signer.account, 0)
        return await self.authorised(provider)

    async def authorised(self, provider):
        """A stream that may spend from its channel."""
        signer, expires_ms = self.signer, self.stage.clock.utc_ms() + 60_000
        digest = signing.authorise_digest(CHAIN_ID, HUB, self.channel, signer.peer_id, provider.peer_id, expires_ms)
        stream = await self.open(provider.peer_id, INFERENCE)
        await stream.send(
            frames.Authorise(
                channel=self.channel, payer=signer.account, session=signer.session_address, gateway=signer.peer_id,
                provider=provider.peer_id, expires_ms=expires_ms, signature=await signer.sign_session(digest),
                head=ChannelHead(),
            )
        )  # fmt: skip
        assert isinstance(await stream.receive(), frames.Authorised)
        return stream

    def request(self, number=1, **changes):
        """An honest Open, but for `changes`."""
        fields = {
            "request_id": RequestId(number.to_bytes(16, "little")), "channel": self.channel, "model": MODEL,
            "dialect": Dialect.NATIVE, "max_tokens": 10, "prompt_tokens_estimate": 10,
            "deadline_ms": self.stage.clock.utc_ms() + 60_000, "qos": Qos.STANDARD, "seed": None, "sealed": False,
            "prefix_hashes": (), "body": b"{}",
        } | changes  # fmt: skip
        return frames.Open(**fields)

    # ---- as a provider

    async def sell(self):
        """Offer the model at the stage's price, first in the gateway's order, and serve it."""
        stage = self.stage
        self.transport.answer(Raw(OFFER), lambda peer, question: self._said(self.answer)[0])
        self.transport.serve(Raw(INFERENCE), self._serve)
        self.transport.serve(Raw(ACKS), self._take_acks)
        offer = Offer(
            provider=self.peer_id, public_key=self.signer.public_key, model=MODEL, name=NAME, prompt_price=PRICE.prompt,
            completion_price=PRICE.completion, minimum_credits=PRICE.minimum_credits, hardware="", slots=1,
            prefill_tps=1.0, decode_tps=1.0, payout=self.signer.account, chain_id=CHAIN_ID, contract=HUB, generation=1,
            expires_ms=stage.clock.utc_ms() + 600_000,
        )  # fmt: skip
        offer = msgspec.structs.replace(offer, **self.offer)
        try:
            signature = await self.signer.sign(signing.offer_bytes(offer))
        except MalformedMessage:
            signature = bytes(64)
        self.answer = OfferAnswer(
            offers=(SignedOffer(offer=offer, signature=signature),), load=Load(queued=0, running=0, slots=1)
        )
        stage.given.insert(0, self.transport.local_info())
        stage.gateway.policy.order.insert(0, self.peer_id)
        await stage.gateway.service.pool.prepare(MODEL)

    def _said(self, frame):
        change = self.tamper.get(type(frame))
        return [frame] if change is None else change(frame)

    async def _sign(self, body):
        """Signs whatever has signed bytes; what has none gets 64 zeros."""
        try:
            signed = await sign_receipt(self.signer, body)
        except struct.error:
            return SignedReceipt(body=body, signature=bytes(64))
        head = signing.next_head(self.head.head, signing.receipt_digest(body))
        self.head = ChannelHead(seq=body.seq, cum=body.cum, head=head)
        return signed

    async def _say(self, stream, frame):
        for said in self._said(frame):
            await stream.send(said)

    async def _take_acks(self, stream):
        while await stream.receive() is not None:
            pass

    async def _serve(self, stream):
        authorise = await stream.receive()
        await self._say(stream, frames.Authorised(channel=authorise.channel, head=authorise.head))
        self.head = authorise.head
        terms = ChannelTerms(
            chain_id=CHAIN_ID, contract=HUB, channel=authorise.channel, provider_key=self.signer.public_key,
            payer=authorise.payer,
        )  # fmt: skip
        opened = {}
        while (frame := await stream.receive()) is not None:
            if isinstance(frame, frames.Open):
                quote = compute_quote(
                    frame, PRICE, slack_tokens=2, queue_s=0.0, expires_ms=self.stage.clock.utc_ms() + 10_000
                )
                opened[frame.request_id] = frame, quote
                await self._say(stream, quote)
            elif isinstance(frame, frames.Accept):
                await self._deliver(stream, terms, *opened[frame.request_id])

    async def _deliver(self, stream, terms, opened, quote):
        """One token, its receipt, the end."""
        request_id = opened.request_id
        digest = signing.request_hash(request_id, opened.model, opened.max_tokens, opened.body)
        meter = Meter(quote, digest, self.stage.params)
        meter.on_chunk(b"tok ", 1, 10)
        await self._say(stream, frames.Chunk(request_id=request_id, index=0, tokens=1, text="tok "))
        body = meter.next_receipt(
            terms, self.head, request_id=request_id, model=MODEL, issued_ms=self.stage.clock.utc_ms()
        )
        body = msgspec.structs.replace(body, **self.bill)
        signed = await self._sign(body)
        await self._say(stream, frames.ReceiptFrame(request_id=request_id, receipt=signed))
        end = frames.End(
            request_id=request_id, done_reason="stop", prompt_tokens=10, completion_tokens=1, chunks=1, queue_s=0.0
        )
        await self._say(stream, end)
