"""Frames of `/quiver/inference/1.0.0`, `/quiver/acks/1.0.0` and `/quiver/receipts/1.0.0`: the table in docs/protocol.md.

Tags are one or two letters because they travel with every frame. Every frame of a request names it.
"""

from __future__ import annotations

import msgspec

from quiver.ids import Address, ChannelId, ModelId, PeerId, RequestId
from quiver.values.ledger import Commitment, Leaf, MultiProof, Promise, Proof
from quiver.values.receipt import Acknowledgement, ChannelHead, SignedReceipt
from quiver.values.request import Dialect, Qos


class Frame(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Base: arrays on the wire; a reader ignores trailing fields it does not know (a newer minor version)."""


class Authorise(Frame, kw_only=True, tag="A"):
    """Payer -> provider, first frame of a connection: proof that this gateway may spend from this channel."""

    channel: ChannelId
    payer: Address
    session: Address
    gateway: PeerId
    provider: PeerId
    expires_ms: int
    signature: bytes
    "Session key over `authorise_digest`."
    head: ChannelHead
    "Where the payer thinks the channel stands."
    last: Acknowledgement | None = None


class Authorised(Frame, kw_only=True, tag="a"):
    """Provider -> payer: accepted; where the provider thinks the channel stands, and receipts not yet acknowledged."""

    channel: ChannelId
    head: ChannelHead
    unacknowledged: tuple[SignedReceipt, ...] = ()


class Open(Frame, kw_only=True, tag="O"):
    """Payer -> provider: a request."""

    request_id: RequestId
    channel: ChannelId
    model: ModelId
    dialect: Dialect
    max_tokens: int
    prompt_tokens_estimate: int
    deadline_ms: int
    qos: Qos
    seed: int | None
    sealed: bool
    prefix_hashes: tuple[bytes, ...]
    body: bytes


class Quote(Frame, kw_only=True, tag="Q"):
    """Provider -> payer: the most this request can cost, and until when the quote holds."""

    request_id: RequestId
    prompt_price: int
    completion_price: int
    minimum_credits: int
    prompt_tokens_max: int
    completion_tokens_max: int
    amount_max: int
    queue_s: float
    expires_ms: int


class Busy(Frame, kw_only=True, tag="B"):
    """Provider -> payer: not now. Never a fault."""

    request_id: RequestId
    code: int
    retry_after_s: float


class Accept(Frame, kw_only=True, tag="C"):
    """Payer -> provider: go."""

    request_id: RequestId


class Chunk(Frame, kw_only=True, tag="T"):
    """Provider -> payer: text as the engine makes it. `index` counts chunks of the request from 0."""

    request_id: RequestId
    index: int
    tokens: int
    text: str


class ReceiptFrame(Frame, kw_only=True, tag="R"):
    """Provider -> payer: what was delivered so far, signed."""

    request_id: RequestId
    receipt: SignedReceipt


class Cancel(Frame, kw_only=True, tag="X"):
    """Payer -> provider: stop; a last receipt for what was sent, then End, will follow."""

    request_id: RequestId
    code: int


class Error(Frame, kw_only=True, tag="E"):
    """Provider -> payer: the request failed; nothing after it but a receipt already sent counts."""

    request_id: RequestId
    code: int
    message: str
    retry_after_s: float | None = None


class End(Frame, kw_only=True, tag="Z"):
    """Provider -> payer: the clean end."""

    request_id: RequestId
    done_reason: str
    prompt_tokens: int
    completion_tokens: int
    chunks: int
    queue_s: float


InferenceFrame = Authorise | Authorised | Open | Quote | Busy | Accept | Chunk | ReceiptFrame | Cancel | Error | End


class AckFrame(Frame, kw_only=True, tag="K"):
    """Payer -> provider, on a stream of its own: covers all receipts of the channel up to its seq."""

    acknowledgement: Acknowledgement


class SubmitReceipts(Frame, kw_only=True, tag="S"):
    """Provider -> aggregator: receipts of one channel in seq order, and an acknowledgement that covers the last of them."""

    batch_id: int
    previous: ChannelHead
    receipts: tuple[SignedReceipt, ...]
    acknowledgement: Acknowledgement
    session: Address


class Ingested(Frame, kw_only=True, tag="I"):
    """Aggregator -> provider, once durable: these receipts belong to `epoch`."""

    batch_id: int
    epoch: int
    accepted: int
    duplicates: int
    promise: Promise | None = None
    "Signed word that the epoch's leaf will be as new; None while no bond stands behind this aggregator's roots."


class Refused(Frame, kw_only=True, tag="N"):
    """Aggregator -> provider: nothing of the batch was taken."""

    batch_id: int
    code: int
    message: str


class AskProof(Frame, kw_only=True, tag="P"):
    """Provider -> aggregator: a channel's leaf and proof in a closed epoch."""

    epoch: int
    channel: ChannelId


class ProofAnswer(Frame, kw_only=True, tag="Y"):
    """Aggregator -> provider: None while the epoch is open or the channel is not in it."""

    epoch: int
    channel: ChannelId
    commitment: Commitment | None
    leaf: Leaf | None
    proof: Proof | None
    acknowledgement: Acknowledgement | None
    signature: bytes = b""
    "By the signer of the aggregator's bond over `commitment`; with it a SignedCommitment. Empty while there is no bond."


class AskBatch(Frame, kw_only=True, tag="M"):
    """Provider -> aggregator: 1 to 64 channels of a closed epoch under one proof, as `ClaimBatch` wants them."""

    epoch: int
    channels: tuple[ChannelId, ...]


class BatchAnswer(Frame, kw_only=True, tag="m"):
    """Aggregator -> provider: those of the channels that are in the epoch, by ascending place; None while it is open."""

    epoch: int
    commitment: Commitment | None
    signature: bytes
    "As in `ProofAnswer`."
    acknowledgements: tuple[Acknowledgement, ...]
    "Their leaves are what `proof` shows."
    proof: MultiProof | None


class AskHeads(Frame, kw_only=True, tag="H"):
    """Provider -> aggregator: how far do you know my channels? For a provider that lost its disk."""

    after: ChannelId | None = None
    "The last channel of the page before; None for the first page."


class HeadsAnswer(Frame, kw_only=True, tag="h"):
    """Aggregator -> provider: the newest acknowledgement of each channel the asking key handed receipts in for."""

    acknowledgements: tuple[Acknowledgement, ...]
    "By ascending channel."
    more: bool
    "Ask again, after the last of them."


class AskEpoch(Frame, kw_only=True, tag="W"):
    """Anyone -> aggregator: where does an epoch stand?"""

    epoch: int


class EpochAnswer(Frame, kw_only=True, tag="w"):
    """Aggregator -> anyone."""

    epoch: int
    status: str
    "open, closing, submitted, final or lost; unknown: nothing was handed in, or it is forgotten."
    commitment: Commitment | None
    signature: bytes
    "As in `ProofAnswer`."
    published: bytes | None
    "SHA-256 that names the epoch's manifest: ask `AskContent`."


class AskShard(Frame, kw_only=True, tag="J"):
    """Committer -> shard: have you closed this epoch, and with which leaves?"""

    epoch: int


class ShardAnswer(Frame, kw_only=True, tag="j"):
    """Shard -> committer."""

    epoch: int
    closed: bool
    "Nothing can join the epoch here any more."
    published: bytes | None
    "Manifest of this shard's leaves; None while it is not closed, and when it has none."


class AskContent(Frame, kw_only=True, tag="G"):
    """Anyone -> aggregator: the published bytes with this SHA-256, a manifest or one of its pages."""

    name: bytes


class ContentAnswer(Frame, kw_only=True, tag="g"):
    """Aggregator -> anyone: None when it holds no such bytes."""

    name: bytes
    data: bytes | None


ReceiptsFrame = (
    SubmitReceipts
    | Ingested
    | Refused
    | AskProof
    | ProofAnswer
    | AskBatch
    | BatchAnswer
    | AskHeads
    | HeadsAnswer
    | AskEpoch
    | EpochAnswer
    | AskShard
    | ShardAnswer
    | AskContent
    | ContentAnswer
)
