"""Receipts for an aggregator, and an aggregator to take them: the real service, codec, checks, signatures and stores, without sockets."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quiver.aggregator.service import AggregatorService
from quiver.identity.keys import KeyPair
from quiver.identity.signing import ack_digest, ack_domain, next_head, receipt_digest
from quiver.ids import Address, ChannelId, ModelId, PeerId, RequestId, compute_channel_id
from quiver.live.clock import LiveClock
from quiver.live.signer import LiveSigner, LiveVerifier, SignaturePool
from quiver.params import Params
from quiver.ports import Clock, SignatureCheck, Store
from quiver.runtime import Runtime
from quiver.values.frames import Ingested, ReceiptsFrame, SubmitReceipts
from quiver.values.ledger import BondState, ChannelState, EpochState, SubmitEpoch
from quiver.values.receipt import Acknowledgement, ChannelHead, ReceiptBody, SignedReceipt
from quiver.wire.protocols import RECEIPTS

CHAIN_ID, CONTRACT = 31337, Address(b"\x51" * 20)
DOMAIN = ack_domain(CHAIN_ID, CONTRACT)
PAYER, AGGREGATOR = KeyPair(b"p" * 32), KeyPair(b"a" * 32)
# One epoch for everything: none ends while it is measured.
EPOCH_MS = 10**12
PARAMS = Params(epoch_ms=EPOCH_MS)
AMOUNT = 5
MODEL = ModelId(bytes(32))


def digest(purpose: str, number: int) -> bytes:
    """32 bytes that differ."""
    return hashlib.sha256(f"{purpose} {number}".encode()).digest()


def open_channel(provider: KeyPair, nonce: int) -> ChannelState:
    """From the one payer, with more than anybody will earn."""
    channel = compute_channel_id(DOMAIN, PAYER.account, provider.account, nonce)
    return ChannelState(
        channel=channel, payer=PAYER.account, provider=provider.account, session=PAYER.session_address, locked=10**12,
        paid=0,
    )  # fmt: skip


def make_submission(
    provider: KeyPair, channel: ChannelState, previous: ChannelHead, count: int, *, is_signed: bool = True
) -> tuple[bytes, ChannelHead]:
    """A frame with the next `count` receipts of a channel and one acknowledgement, and the head after it.

    Unsigned ones have bytes that differ in the signatures' places: they cost the same to keep.
    """
    head, receipts, issued_ms = previous, [], LiveClock().utc_ms()
    for _ in range(count):
        seq = head.seq + 1
        body = ReceiptBody(
            chain_id=CHAIN_ID, contract=CONTRACT, channel=channel.channel, request_id=RequestId(head.head[:12] + seq.to_bytes(4, "big")),
            seq=seq, provider_key=provider.public_key, payer=channel.payer, request_hash=digest(channel.channel.hex(), seq),
            response_hash=digest(channel.channel.hex(), -seq), model=MODEL, prompt_tokens=500, completion_tokens=200,
            amount=AMOUNT, cum=head.cum + AMOUNT, issued_ms=issued_ms,
        )  # fmt: skip
        signed = receipt_digest(body)
        signature = provider.sign(signed) if is_signed else signed + channel.channel
        receipts.append(SignedReceipt(body=body, signature=signature))
        head = ChannelHead(seq=seq, cum=body.cum, head=next_head(head.head, signed))
    said = ack_digest(DOMAIN, channel.channel, head.cum, head.seq, head.head)
    acknowledgement = Acknowledgement(
        channel=channel.channel, seq=head.seq, cum=head.cum, head=head.head,
        signature=PAYER.sign_session(said) if is_signed else said + channel.channel + b"\0",
    )  # fmt: skip
    frame = SubmitReceipts(
        batch_id=head.seq, previous=previous, receipts=tuple(receipts), acknowledgement=acknowledgement,
        session=PAYER.session_address,
    )  # fmt: skip
    return RECEIPTS.encode(frame), head


@dataclass(frozen=True)
class Load:
    """What providers hand in: each stream's frames in order, and the channels as the ledger knows them."""

    streams: list[tuple[PeerId, Iterable[bytes]]]
    channels: dict[ChannelId, ChannelState]


def make_load(*, streams: int, receipts: int, per_frame: int) -> Load:
    """`receipts` in all, signed, evenly from as many providers as `streams`, each with one channel."""
    load = Load([], {})
    for number in range(streams):
        provider = KeyPair(digest("provider", number))
        channel = open_channel(provider, 0)
        load.channels[channel.channel] = channel
        frames, head = [], ChannelHead()
        for _ in range(receipts // streams // per_frame):
            frame, head = make_submission(provider, channel, head, per_frame)
            frames.append(frame)
        load.streams.append((provider.peer_id, frames))
    return load


class Dialogue:
    """A stream over which one provider hands in its frames, as bytes, and gets bytes for answers."""

    def __init__(self, peer_id: PeerId, frames: Iterable[bytes]) -> None:
        self.peer_id = peer_id
        self._frames: Iterator[bytes] = iter(frames)
        self.accepted = 0

    async def receive(self) -> ReceiptsFrame | None:
        frame = next(self._frames, None)
        return None if frame is None else RECEIPTS.decode(frame)

    async def send(self, frame: ReceiptsFrame) -> None:
        RECEIPTS.encode(frame)
        assert isinstance(frame, Ingested), frame
        self.accepted += frame.accepted

    def finish(self) -> None:
        """Nobody listens."""


class Surroundings:
    """What an aggregator needs of a transport, a ledger and a trace when they are not what is measured. Its bond is up."""

    chain_id, contract, opening_cost_credits = CHAIN_ID, CONTRACT, 0

    def __init__(self, channels: Mapping[ChannelId, ChannelState], clock: Clock) -> None:
        self.channel = channels.get
        self._clock = clock
        self._epochs: dict[int, EpochState] = {}
        self._bond = BondState(account=AGGREGATOR.account, signer=AGGREGATOR.session_address, amount=10**12)

    def serve(self, protocol: object, handler: object) -> None:
        """The streams are handed to the service."""

    def emit(self, event: object) -> None:
        """Nobody reads it."""

    def bond(self, account: Address) -> BondState:
        return self._bond

    def epoch(self, number: int) -> EpochState | None:
        return self._epochs.get(number)

    async def submit(self, transaction: SubmitEpoch) -> bytes:
        state = EpochState(
            commitment=transaction.commitment, submitted_ms=self._clock.utc_ms(), poster=transaction.sender
        )
        self._epochs[transaction.commitment.epoch] = state
        return b"done"


class Calendar(LiveClock):
    """The machine's clock, in whatever epoch a row needs."""

    epochs_ahead = 0

    def utc_ms(self) -> int:
        return super().utc_ms() + self.epochs_ahead * EPOCH_MS


class TrustingVerifier:
    """For rows that measure what comes after the signatures."""

    async def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        return True

    async def verify_session(self, address: Address, digest: bytes, signature: bytes) -> bool:
        return True

    async def find_invalid(self, checks: Sequence[SignatureCheck]) -> int | None:
        return None


def make_service(
    store: Store, channels: Mapping[ChannelId, ChannelState], pool: SignaturePool, *, clock: Clock, trusts: bool = False
) -> AggregatorService:
    """An aggregator on `store`; one that trusts believes every signature, and makes its own."""
    around: Any = Surroundings(channels, clock)
    return AggregatorService(
        Runtime(
            clock=clock, transport=around, store=store, signer=LiveSigner(AGGREGATOR, pool),
            verifier=TrustingVerifier() if trusts else LiveVerifier(pool), ledger=around, trace=around,
            rng=random.Random(1), params=PARAMS,
        )
    )  # fmt: skip


async def ingest(service: AggregatorService, load: Load) -> int:
    """Hand everything in, all streams at once; receipts accepted."""
    dialogues: list[Any] = [Dialogue(peer_id, frames) for peer_id, frames in load.streams]
    await asyncio.gather(*(service.serve(dialogue) for dialogue in dialogues))
    return sum(dialogue.accepted for dialogue in dialogues)
