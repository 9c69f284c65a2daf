"""A broken answer, asked for again from where it broke. No I/O, no clock.

The text that was delivered goes along as what the assistant has said already, in the client's own dialect where that can carry
it. An engine that continues its last message gives the rest; it may word it otherwise than the first engine would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from quiver.errors import Busy, DeadlineExceeded, PeerError, QuiverError, WireCode
from quiver.params import Params
from quiver.values.request import Dialect, InferenceRequest, TokenChunk

# The answer was complete, or the request itself is at fault, or nobody would read the rest.
_NO_USE = frozenset(
    {
        WireCode.BAD_SIGNATURE, WireCode.CLIENT_GONE, WireCode.DEADLINE, WireCode.MALFORMED, WireCode.SLOW_CLIENT,
        WireCode.TOO_LARGE,
    }
)  # fmt: skip
# Half an object or half a call can't be continued as text, a middle has no prefix, token ids are one engine's own.
_NOT_CONTINUED = (
    "context", "format", "functions", "logprobs", "response_format", "suffix", "template", "think", "tools",
)  # fmt: skip
_PLAIN_TEXT = {"type": "text"}
_NATIVE_SAMPLING = ("temperature", "top_p", "stop")


class Transcript:
    """What the client has of its answer."""

    __slots__ = ("tokens", "_texts")

    def __init__(self) -> None:
        self.tokens = 0
        self._texts: list[str] = []

    def add(self, chunk: TokenChunk) -> None:
        """A chunk goes to the client."""
        self.tokens += chunk.tokens
        self._texts.append(chunk.text)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._texts)


def can_resume(request: InferenceRequest) -> bool:
    """Whether an answer to this request could be continued by another provider."""
    return not request.sealed and not request.once and _continue_body(request, "") is not None


def is_worth_resuming(error: QuiverError) -> bool:
    """Whether the rest may still come from somebody else after this."""
    if isinstance(error, DeadlineExceeded):
        return False
    return isinstance(error, Busy) or not isinstance(error, PeerError) or error.wire_code not in _NO_USE


def compute_rest(request: InferenceRequest, transcript: Transcript, params: Params) -> InferenceRequest | None:
    """The request for what is missing; None when nothing is, or when it would be too large."""
    left = request.max_tokens - transcript.tokens
    continued = _continue_body(request, transcript.text) if left > 0 else None
    if continued is None or len(continued[1]) > params.body_bytes_max:
        return None
    dialect, body = continued
    # The next provider reads, and is paid for, the prompt and what was said since.
    return replace(
        request, dialect=dialect, body=body, max_tokens=left,
        prompt_tokens_estimate=request.prompt_tokens_estimate + transcript.tokens,
    )  # fmt: skip


def _continue_body(request: InferenceRequest, text: str) -> tuple[Dialect, bytes] | None:
    try:
        body = msgspec.json.decode(request.body, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if any(body.get(name) and body[name] != _PLAIN_TEXT for name in _NOT_CONTINUED) or body.get("n") not in (None, 1):
        return None
    if request.dialect in (Dialect.OPENAI_CHAT, Dialect.OLLAMA_CHAT):
        messages = _continue_messages(body.get("messages"), text)
        return None if messages is None else (request.dialect, msgspec.json.encode({**body, "messages": messages}))
    if not isinstance(body.get("prompt"), str):
        return None
    if body.get("raw"):
        return request.dialect, msgspec.json.encode({**body, "prompt": body["prompt"] + text})
    return Dialect.OLLAMA_CHAT, msgspec.json.encode(_as_chat(request.dialect, body, text))


def _continue_messages(messages: Any, text: str) -> list[Any] | None:
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        return None
    last = messages[-1]
    if last.get("role") != "assistant":
        return [*messages, {"role": "assistant", "content": text}]
    # The client began the answer itself.
    if not isinstance(last.get("content"), str):
        return None
    return [*messages[:-1], {**last, "content": last["content"] + text}]


def _as_chat(dialect: Dialect, body: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A prompt goes through the model's template as the user's word: appended to it, the answer would be the user's too."""
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    images = {"images": body["images"]} if body.get("images") else {}
    asked = {"role": "user", "content": body["prompt"], **images}
    if dialect is Dialect.NATIVE:
        options = {name: body[name] for name in _NATIVE_SAMPLING if body.get(name) is not None}
    else:
        options = body.get("options") or {}
    return {"messages": [*system, asked, {"role": "assistant", "content": text}], "options": options}
