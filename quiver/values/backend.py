"""What a provider asks of its engine, and what comes back."""

from __future__ import annotations

import msgspec

from quiver.ids import ModelId, RequestId
from quiver.values.request import Dialect


class InstalledModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on the engine's disk."""

    name: str
    model: ModelId
    size_bytes: int = 0
    warm: bool = False
    context_tokens: int = 4096


class BackendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One generation. `body` is the client's JSON in `dialect`; the adapter translates it for its engine."""

    request_id: RequestId
    name: str
    model: ModelId
    dialect: Dialect
    body: bytes
    max_tokens: int
    prompt_tokens_estimate: int = 0
    seed: int | None = None


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine produced since the last piece."""

    text: str
    tokens: int
    "Completion tokens in this piece."
    prompt_tokens: int = 0
    "As the engine counts them; set on the first piece that knows."
    done_reason: str | None = None
    "`stop` or `length` on the last piece."
    completion_tokens: int | None = None
    "The engine's own total, on the last piece; may exceed the sum of `tokens` by its end-of-sequence step."
