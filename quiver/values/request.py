"""A client's inference request and the events its caller gets back."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from quiver.ids import ModelId, PeerId, RequestId
from quiver.values.receipt import Acknowledgement, SignedReceipt


class Dialect(StrEnum):
    """How `InferenceRequest.body` is to be read."""

    OPENAI_CHAT = "openai"
    OLLAMA_CHAT = "ollama-chat"
    OLLAMA_GENERATE = "ollama-generate"
    NATIVE = "native"


class Qos(StrEnum):
    """Class of service."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "background"


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The routing envelope: all a gateway needs to know; `body` stays opaque to it."""

    request_id: RequestId
    model: str
    "Name as the client wrote it; the gateway pins it to a `ModelId`."
    dialect: Dialect
    body: bytes
    max_tokens: int
    prompt_tokens_estimate: int
    deadline_ms: int
    "utc_ms by which the answer must be complete."
    qos: Qos = Qos.STANDARD
    seed: int | None = None
    prefix_hashes: tuple[bytes, ...] = ()
    sealed: bool = False
    once: bool = False
    "At most one provider may have begun to answer: never hedged, never resumed."


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as the HTTP door (or the simulated client) authenticated them."""

    name: str
    requests_per_s: float | None = None


class TokenChunk(msgspec.Struct, frozen=True, kw_only=True, tag="chunk"):
    """Streamed text, forwarded as it arrives."""

    text: str
    tokens: int


class Final(msgspec.Struct, frozen=True, kw_only=True, tag="final"):
    """The clean end of an answer, with proof of what was delivered."""

    done_reason: str
    prompt_tokens: int
    completion_tokens: int
    provider: PeerId
    model: ModelId
    receipt: SignedReceipt | None
    "None only for an empty answer, for which nothing is owed."
    acknowledgement: Acknowledgement | None
    queue_s: float
    attempts: int
    paid_credits: int
    "Receipts accepted by the end of the answer, of every provider. One that lost a hedge may bill later: that is in the log of its channel."
    quoted_credits: int
    "What those quotes allowed."
    resumed: int = 0
    "How often another provider continued; then `receipt` is the last one's, over its own part only."
    hedged: bool = False
    "A second provider was asked while the first was silent."
    charged_credits: int | None = None
    "What the client's account paid; None for a client without one."


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """The request ended without a complete answer. For `delivered_tokens` receipts were accepted, or will be when they come."""

    code: int
    message: str
    retry_after_s: float | None = None
    delivered_tokens: int = 0
    attempts: int = 0
    paid_credits: int = 0
    resumed: int = 0
    hedged: bool = False
    charged_credits: int | None = None


RequestEvent = TokenChunk | Final | Failure
