"""The Ollama door: chat, generate and the inventory, as the official `ollama` client expects them.

Follows ollama/ollama's api/types.go: zero metrics are absent, durations are nanoseconds, the last line stands alone.
Load-time options and `keep_alive` are accepted and have no effect: providers decide what stays in their memory.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from quiver.live.client.verify import encode_final
from quiver.live.http.door import Door, Prompt, decode, json_response
from quiver.live.http.exchange import answer
from quiver.live.http.problem import Problem
from quiver.values.request import Dialect, Final, InferenceRequest, Principal

API_VERSION = "0.33.0"
"The Ollama release whose API this door follows; some clients refuse to talk to older ones."


class _Message(msgspec.Struct):
    role: str
    content: str = ""
    images: list[str] | None = None


class _Request(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None


class _Chat(_Request):
    messages: list[_Message] | None = None
    tools: list[Any] | None = None


class _Generate(_Request):
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    images: list[str] | None = None
    context: list[int] | None = None


_CHAT = msgspec.json.Decoder(_Chat)
_GENERATE = msgspec.json.Decoder(_Generate)


def shape_problem(problem: Problem) -> dict[str, Any]:
    """The error object of this API."""
    return {"error": problem.message}


class OllamaDoor:
    """Handlers of `/` and `/api`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def routes(self) -> list[web.RouteDef]:
        """For `Application.add_routes`; GET serves HEAD too."""
        return [
            web.get("/", self.root),
            web.get("/api/version", self.version),
            web.get("/api/tags", self.tags),
            web.get("/api/ps", self.ps),
            web.post("/api/show", self.show),
            web.post("/api/chat", self.chat),
            web.post("/api/generate", self.generate),
        ]

    async def root(self, request: web.Request) -> web.Response:
        """GET, HEAD /: what Ollama's own tools look for."""
        return web.Response(text="Ollama is running")

    async def version(self, request: web.Request) -> web.Response:
        """GET /api/version."""
        return json_response({"version": API_VERSION})

    async def tags(self, request: web.Request) -> web.Response:
        """GET /api/tags."""
        self._door.admit(request)
        at = _timestamp(self._door.utc_ms())
        return json_response({"models": [{**_model(*known), "modified_at": at} for known in self._door.models()]})

    async def ps(self, request: web.Request) -> web.Response:
        """GET /api/ps: nothing runs on the gateway itself."""
        self._door.admit(request)
        return json_response({"models": []})

    async def show(self, request: web.Request) -> web.Response:
        """POST /api/show."""
        self._door.admit(request)
        asked = decode(await self._door.read(request), _GENERATE)
        self._check_known(asked.model)
        return json_response({"details": _DETAILS, "model_info": {}, "capabilities": ["completion"]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /api/chat."""
        principal = self._door.admit(request)
        body = await self._door.read(request)
        asked = decode(body, _CHAT)
        _check_deliverable(asked, bool(asked.tools))
        if not asked.messages:
            return self._load_only(asked, {"message": {"role": "assistant", "content": ""}})
        texts = tuple(text for message in asked.messages for text in (message.role, message.content))
        images = sum(len(message.images or ()) for message in asked.messages)
        prompt = _prompt(asked, Dialect.OLLAMA_CHAT, texts, messages=len(asked.messages), images=images)
        inference = self._door.envelope(request, prompt, body)
        return await self._answer(request, inference, principal, asked, chat=True)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST /api/generate."""
        principal = self._door.admit(request)
        body = await self._door.read(request)
        asked = decode(body, _GENERATE)
        _check_deliverable(asked, False)
        if asked.raw and (asked.template or asked.system or asked.context):
            raise Problem(400, "raw mode does not support template, system, or context")
        if not asked.prompt:
            return self._load_only(asked, {"response": ""})
        texts = (asked.system, asked.template, asked.prompt, asked.suffix)
        prompt = _prompt(asked, Dialect.OLLAMA_GENERATE, texts, messages=1, images=len(asked.images or ()))
        inference = self._door.envelope(request, prompt, body)
        return await self._answer(request, inference, principal, asked, chat=False)

    async def _answer(
        self, request: web.Request, inference: InferenceRequest, principal: Principal, asked: _Request, *, chat: bool
    ) -> web.StreamResponse:
        framing = _Framing(self._door, asked.model, inference, chat=chat)
        try:
            return await answer(self._door, request, inference, principal, framing, stream=asked.stream is not False)
        except Problem as problem:
            if problem.kind != "unknown_model":
                raise
            raise _unknown_model(asked.model) from problem

    def _load_only(self, asked: _Request, answer_part: dict[str, Any]) -> web.Response:
        # An empty prompt asks Ollama to load or unload a model; on a network there is nothing to do but know it.
        self._check_known(asked.model)
        reason = "unload" if asked.keep_alive in (0, "0", "0s") else "load"
        base = {"model": asked.model, "created_at": _timestamp(self._door.utc_ms())}
        return json_response({**base, **answer_part, "done": True, "done_reason": reason})

    def _check_known(self, name: str) -> None:
        if not name:
            raise Problem(400, "model is required")
        if self._door.resolve(name) not in {known for known, _ in self._door.models()}:
            raise _unknown_model(name)


def _unknown_model(name: str) -> Problem:
    # Clients compare this text with Ollama's own.
    return Problem(404, f"model '{name}' not found", kind="unknown_model")


def _check_deliverable(asked: _Request, has_tools: bool) -> None:
    if not asked.model:
        raise Problem(400, "model is required")
    if has_tools:
        raise Problem(400, "tools are not carried by this network yet: leave `tools` out")
    if asked.think:
        raise Problem(400, f'"{asked.model}" does not support thinking on this network: leave `think` out')
    if asked.logprobs:
        raise Problem(400, "logprobs are not carried by this network: leave `logprobs` out")


def _prompt(asked: _Request, dialect: Dialect, texts: tuple[str, ...], *, messages: int, images: int) -> Prompt:
    options = asked.options or {}
    seed = _integer(options, "seed")
    stop = options.get("stop")
    if stop is not None and not (isinstance(stop, list) and all(isinstance(item, str) for item in stop)):
        raise Problem(400, 'option "stop" must be of type array')
    return Prompt(
        model=asked.model, dialect=dialect, texts=texts, messages=messages, images=images,
        max_tokens=_integer(options, "num_predict"), max_tokens_field="num_predict",
        seed=None if seed == -1 else seed,
    )  # fmt: skip


def _integer(options: dict[str, Any], name: str) -> int | None:
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Problem(400, f'option "{name}" must be of type integer')
    return int(value)


_DETAILS = {
    "parent_model": "", "format": "", "family": "", "families": [], "parameter_size": "", "quantization_level": "",
}  # fmt: skip


def _model(name: str, model: bytes) -> dict[str, Any]:
    return {"name": name, "model": name, "size": 0, "digest": model.hex(), "details": _DETAILS}


def _timestamp(utc_ms: int) -> str:
    return datetime.fromtimestamp(utc_ms / 1000, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Framing:
    content_type = "application/x-ndjson"

    def __init__(self, door: Door, model: str, inference: InferenceRequest, *, chat: bool) -> None:
        self._door, self._model, self._inference, self._chat = door, model, inference, chat
        self._started_s = door.monotonic()
        self._first_s: float | None = None

    def chunk(self, text: str) -> bytes:
        if self._first_s is None:
            self._first_s = self._door.monotonic()
        return msgspec.json.encode({**self._base(), **self._part(text), "done": False}) + b"\n"

    def final(self, final: Final) -> bytes:
        return msgspec.json.encode(self._last("", final)) + b"\n"

    def failure(self, problem: Problem) -> bytes:
        return msgspec.json.encode(shape_problem(problem)) + b"\n"

    def whole(self, text: str, final: Final) -> dict[str, Any]:
        return self._last(text, final)

    def _base(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": _timestamp(self._door.utc_ms())}

    def _part(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self._chat else {"response": text}

    def _last(self, text: str, final: Final) -> dict[str, Any]:
        # The gateway's own measure: everything before the first chunk but the queue counts as prompt evaluation.
        now_s = self._door.monotonic()
        first_s = now_s if self._first_s is None else self._first_s
        metrics = {
            "total_duration": _ns(now_s - self._started_s),
            "prompt_eval_count": final.prompt_tokens,
            "prompt_eval_duration": _ns(first_s - self._started_s - final.queue_s),
            "eval_count": final.completion_tokens,
            "eval_duration": _ns(now_s - first_s),
        }
        return {
            **self._base(), **self._part(text), "done": True, "done_reason": final.done_reason,
            **{name: value for name, value in metrics.items() if value},
            "quiver": encode_final(final, request_id=self._inference.request_id, max_tokens=self._inference.max_tokens),
        }  # fmt: skip


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
