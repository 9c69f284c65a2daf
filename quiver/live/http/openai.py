"""The OpenAI door: chat completions and models, as the official clients expect them.

What QUIVer cannot deliver (tools, several choices, log probabilities) is refused by name, never silently dropped.
Unknown fields are tolerated, as the real API's own additions come faster than ours.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web

from quiver.live.client.verify import encode_final
from quiver.live.http.door import Door, Prompt, decode, json_response
from quiver.live.http.exchange import answer
from quiver.live.http.problem import Problem
from quiver.values.request import Dialect, Final, InferenceRequest

_TYPE_AND_CODE = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    404: ("invalid_request_error", "model_not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("requests", "rate_limit_exceeded"),
}


class _ImageUrl(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    image_url: _ImageUrl | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Request(msgspec.Struct):
    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], msgspec.Meta(max_length=16)] | None = None
    n: int | None = None
    logprobs: bool | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None


_DECODER = msgspec.json.Decoder(_Request)


def shape_problem(problem: Problem) -> dict[str, Any]:
    """The error object of this API."""
    kind, code = _TYPE_AND_CODE.get(problem.status, ("server_error", problem.kind))
    return {"error": {"message": problem.message, "type": kind, "param": None, "code": code}}


class OpenAiDoor:
    """Handlers of `/v1`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def routes(self) -> list[web.RouteDef]:
        """For `Application.add_routes`."""
        return [
            web.post("/v1/chat/completions", self.chat),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        principal = self._door.admit(request)
        body = await self._door.read(request)
        asked = decode(body, _DECODER)
        _check_deliverable(asked)
        inference = self._door.envelope(request, _prompt(asked), body)
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        framing = _Framing(asked.model, inference, created=self._door.utc_ms() // 1000, include_usage=usage)
        return await answer(self._door, request, inference, principal, framing, stream=bool(asked.stream))

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        self._door.admit(request)
        return json_response({"object": "list", "data": [_model(name) for name, _ in self._door.models()]})

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{model}."""
        self._door.admit(request)
        name = request.match_info["model"]
        if self._door.resolve(name) not in {known for known, _ in self._door.models()}:
            raise Problem(404, f"The model `{name}` does not exist here: GET /v1/models lists those that do")
        return json_response(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "quiver"}


def _check_deliverable(asked: _Request) -> None:
    if asked.tools or asked.functions:
        raise Problem(400, "tools are not carried by this network yet: leave `tools` out")
    if asked.n not in (None, 1):
        raise Problem(400, f"n is {asked.n}: one choice a request is served, send {asked.n} requests instead")
    if asked.logprobs:
        raise Problem(400, "logprobs are not carried by this network: leave `logprobs` out")


def _prompt(asked: _Request) -> Prompt:
    texts, images = [], 0
    for message in asked.messages:
        texts.append(message.role)
        if isinstance(message.content, str):
            texts.append(message.content)
            continue
        for part in message.content or ():
            if part.type == "text" and part.text is not None:
                texts.append(part.text)
            elif part.type == "image_url" and part.image_url is not None:
                images += 1
            else:
                raise Problem(400, f"a content part of type {part.type!r} is not served: use text or image_url")
    new = asked.max_completion_tokens is not None
    wanted = asked.max_completion_tokens if new else asked.max_tokens
    field = "max_completion_tokens" if new else "max_tokens"
    if wanted is not None and wanted < 1:
        raise Problem(400, f"{field} is {wanted}: ask for at least 1, or leave it out")
    return Prompt(
        model=asked.model, dialect=Dialect.OPENAI_CHAT, texts=tuple(texts), messages=len(asked.messages), images=images,
        max_tokens=wanted, max_tokens_field=field, seed=asked.seed,
    )  # fmt: skip


class _Framing:
    content_type = "text/event-stream"

    def __init__(self, model: str, inference: InferenceRequest, *, created: int, include_usage: bool) -> None:
        self._inference, self._include_usage, self._opened = inference, include_usage, False
        self._base = {"id": f"chatcmpl-{inference.request_id.hex()}", "created": created, "model": model}
        head = msgspec.json.encode({**self._base, "object": "chat.completion.chunk"})
        # A chunk differs from the next only in its text: the rest is encoded once.
        self._before = b"data: " + head[:-1] + b',"choices":[{"index":0,"delta":{'
        self._after = b'},"logprobs":null,"finish_reason":null}]}\n\n'

    def chunk(self, text: str) -> bytes:
        role = b"" if self._opened else b'"role":"assistant",'
        self._opened = True
        return self._before + role + b'"content":' + msgspec.json.encode(text) + self._after

    def final(self, final: Final) -> bytes:
        opening = b"" if self._opened else self.chunk("")
        receipt = self._receipt(final)
        finish: dict[str, Any] = {
            **self._base, "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": final.done_reason}],
        }  # fmt: skip
        if not self._include_usage:
            return opening + _sse({**finish, "quiver": receipt}) + b"data: [DONE]\n\n"
        usage = {
            **self._base, "object": "chat.completion.chunk", "choices": [], "usage": _usage(final), "quiver": receipt,
        }  # fmt: skip
        return opening + _sse(finish) + _sse(usage) + b"data: [DONE]\n\n"

    def failure(self, problem: Problem) -> bytes:
        return _sse(shape_problem(problem))

    def whole(self, text: str, final: Final) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            **self._base,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": final.done_reason}],
            "usage": _usage(final),
            "quiver": self._receipt(final),
        }

    def _receipt(self, final: Final) -> dict[str, Any]:
        return encode_final(final, request_id=self._inference.request_id, max_tokens=self._inference.max_tokens)


def _usage(final: Final) -> dict[str, int]:
    total = final.prompt_tokens + final.completion_tokens
    return {
        "prompt_tokens": final.prompt_tokens, "completion_tokens": final.completion_tokens, "total_tokens": total,
    }  # fmt: skip


def _sse(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
