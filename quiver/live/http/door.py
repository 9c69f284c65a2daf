"""What all doors share: authenticate, read a body within limits, and make the routing envelope of a request.

A door holds no policy of the network: which models exist, who may spend and what it costs is the service's to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from quiver.errors import DeadlineExceeded
from quiver.ids import ModelId, RequestId
from quiver.live.http.auth import Authenticator
from quiver.live.http.problem import Problem
from quiver.params import Params
from quiver.runtime import Deadline
from quiver.values.request import Dialect, InferenceRequest, Principal, Qos, RequestEvent

BODY_READ_S = 30.0
"A client that takes longer to send its request is told so."
MESSAGE_OVERHEAD_TOKENS = 4
"Role markers and separators of one chat message, as most templates add them."
IMAGE_TOKENS = 1024
"What one image is estimated at: engines differ by model, few exceed it."
PREFIX_BLOCK_BYTES, PREFIX_HASHES_MAX = 512, 64
"Prefix hashes cover whole blocks of prompt text; the last ones of a very long prompt route no better."
SEED_LIMIT = 1 << 63

REQUEST_ID_HEADER = "x-quiver-request-id"
REQUEST_ID: web.RequestKey[bytes] = web.RequestKey("quiver_request_id", bytes)
"16 bytes, made when the request arrives."
TIMEOUT_HEADER = "x-quiver-timeout-s"
QOS_HEADER = "x-quiver-qos"
ONCE_HEADER = "x-quiver-once"
"1: no second provider beside or after the one that answers, whatever the gateway is set to."

T = TypeVar("T")


class Service(Protocol):
    """The one entry of a gateway."""

    def handle(self, request: InferenceRequest, principal: Principal) -> AsyncIterator[RequestEvent]:
        """Chunks as they come, then `Final` or `Failure`; raises `RequestRejected` or `Unavailable` before the first."""


Models = Callable[[], Sequence[tuple[str, ModelId]]]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What an envelope needs to know of a dialect's body."""

    model: str
    dialect: Dialect
    texts: tuple[str, ...]
    "All text the engine will read, in order."
    messages: int = 1
    images: int = 0
    max_tokens: int | None = None
    "None or negative: the network's default."
    max_tokens_field: str = "max_tokens"
    seed: int | None = None
    qos: Qos | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Door:
    """The service and the rules every dialect applies alike."""

    service: Service
    models: Models
    authenticator: Authenticator
    params: Params
    utc_ms: Callable[[], int]
    monotonic: Callable[[], float]
    providers: Callable[[], int] | None = None
    "How many providers with an unexpired offer and a channel are known, for `/health`."
    reachability: Callable[[], str] | None = None
    "Whether other nodes can dial this one, for `/health`."
    warnings: Callable[[], int] | None = None
    "How many things the operator has to look after, for `/health`; which ones is for the log alone."

    def admit(self, request: web.Request) -> Principal:
        """Who asks; `Problem` 401 or 429."""
        return self.authenticator.principal(
            authorization=request.headers.get("Authorization", ""),
            api_key=request.headers.get("x-api-key", ""),
            remote=request.remote,
        )

    async def read(self, request: web.Request) -> bytes:
        """The body; `Problem` 413 beyond the limit, 408 when it does not come, 400 when it is empty."""
        limit = self.params.body_bytes_max
        if (request.content_length or 0) > limit:
            raise Problem(
                413, f"a body of {request.content_length} bytes; at most {limit} are accepted: send less context"
            )
        try:
            async with Deadline(BODY_READ_S):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise Problem(413, f"a body of more than {limit} bytes is not accepted: send less context") from None
        except DeadlineExceeded:
            raise Problem(408, f"the request body did not arrive within {BODY_READ_S:g} s: send it again") from None
        if not body.strip():
            raise Problem(400, "missing request body: send a JSON object")
        return body

    def resolve(self, name: str) -> str:
        """The name a model is known by here; Ollama's `:latest` may be left out or added."""
        known = {known for known, _ in self.models()}
        if name in known:
            return name
        other = name.removesuffix(":latest") if name.endswith(":latest") else f"{name}:latest"
        return other if other in known else name

    def envelope(self, request: web.Request, prompt: Prompt, body: bytes) -> InferenceRequest:
        """The routing envelope; `Problem` 400 for numbers nobody can serve."""
        if not prompt.model:
            raise Problem(400, "model is required: name one of GET /v1/models")
        if prompt.seed is not None and not -SEED_LIMIT <= prompt.seed < SEED_LIMIT:
            raise Problem(400, f"seed is {prompt.seed}: it must fit into 64 bits, choose a smaller one")
        timeout_s = self._timeout_s(request, prompt)
        return InferenceRequest(
            request_id=RequestId(request[REQUEST_ID]),
            model=self.resolve(prompt.model),
            dialect=prompt.dialect,
            body=body,
            max_tokens=self._max_tokens(prompt),
            prompt_tokens_estimate=compute_prompt_tokens(prompt),
            deadline_ms=self.utc_ms() + round(timeout_s * 1000),
            qos=_qos(request, prompt),
            seed=prompt.seed,
            prefix_hashes=compute_prefix_hashes(prompt.texts),
            once=_once(request),
        )

    def _max_tokens(self, prompt: Prompt) -> int:
        wanted, limit = prompt.max_tokens, self.params.max_tokens_limit
        if wanted is None or wanted < 0:
            return self.params.max_tokens_default
        if wanted == 0 or wanted > limit:
            raise Problem(400, f"{prompt.max_tokens_field} is {wanted}: ask for 1 to {limit}")
        return wanted

    def _timeout_s(self, request: web.Request, prompt: Prompt) -> float:
        limit = self.params.request_timeout_s
        text = request.headers.get(TIMEOUT_HEADER)
        try:
            wanted = float(text) if text is not None else (limit if prompt.timeout_s is None else prompt.timeout_s)
        except ValueError:
            wanted = -1.0
        if not 0.0 < wanted <= limit:
            raise Problem(400, f"a timeout of {text or prompt.timeout_s} s: ask for more than 0 and at most {limit:g}")
        return wanted


def _once(request: web.Request) -> bool:
    text = request.headers.get(ONCE_HEADER, "0")
    if text not in ("0", "1"):
        raise Problem(400, f"{ONCE_HEADER} is {text!r}: use 1 or 0")
    return text == "1"


def _qos(request: web.Request, prompt: Prompt) -> Qos:
    text = request.headers.get(QOS_HEADER)
    if text is None:
        return prompt.qos or Qos.STANDARD
    try:
        return Qos(text)
    except ValueError:
        raise Problem(400, f"{QOS_HEADER} is {text!r}: use one of {', '.join(Qos)}") from None


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """JSON of a known shape; `Problem` 400 names the field and what it should be."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Problem(400, f"the request body is not valid: {error}; correct it and send it again") from None


def compute_prompt_tokens(prompt: Prompt) -> int:
    """UTF-8 bytes / 4 rounded up, plus what a chat template adds per message, plus images."""
    size_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in prompt.texts)
    return -(-size_bytes // 4) + MESSAGE_OVERHEAD_TOKENS * prompt.messages + IMAGE_TOKENS * prompt.images


def compute_prefix_hashes(texts: Iterable[str]) -> tuple[bytes, ...]:
    """Chained SHA-256 over whole blocks of the prompt, 16 bytes each: equal hashes mean equal text up to that block."""
    data = "\x1e".join(texts).encode("utf-8", "surrogatepass")
    hashes: list[bytes] = []
    chain = hashlib.sha256()
    for start in range(0, len(data) - PREFIX_BLOCK_BYTES + 1, PREFIX_BLOCK_BYTES):
        if len(hashes) == PREFIX_HASHES_MAX:
            break
        chain.update(data[start : start + PREFIX_BLOCK_BYTES])
        hashes.append(chain.digest()[:16])
    return tuple(hashes)


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )
