"""The native door: the smallest API that shows everything QUIVer knows. Unknown fields are refused: typos should hurt here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web

from quiver.live.client.verify import encode_final
from quiver.live.http.door import Door, Prompt, decode, json_response
from quiver.live.http.exchange import answer
from quiver.live.http.problem import Problem
from quiver.values.request import Dialect, Final, InferenceRequest, Qos


class _Generate(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    stream: bool = False
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    stop: Annotated[list[str], msgspec.Meta(max_length=16)] | None = None
    seed: int | None = None
    qos: Qos = Qos.STANDARD
    timeout_s: float | None = None


_DECODER = msgspec.json.Decoder(_Generate)


def shape_problem(problem: Problem) -> dict[str, Any]:
    """The error object of this API."""
    error: dict[str, Any] = {"code": problem.kind, "message": problem.message, "retry_after_s": problem.retry_after_s}
    if (failure := problem.failure) is not None and failure.delivered_tokens:
        error |= {"delivered_tokens": failure.delivered_tokens, "paid_credits": failure.paid_credits}
        if failure.charged_credits is not None:
            error["charged_credits"] = failure.charged_credits
    if (shortage := problem.shortage) is not None:
        error |= {"balance_credits": shortage.balance, "need_credits": shortage.need}
    return {"error": error}


class NativeDoor:
    """Handlers of `/generate` and `/health`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def routes(self) -> list[web.RouteDef]:
        """For `Application.add_routes`."""
        return [web.post("/generate", self.generate), web.get("/health", self.health)]

    async def health(self, request: web.Request) -> web.Response:
        """GET /health: for load balancers; needs no key; counts models, providers and warnings, and tells nothing of them."""
        door = self._door
        sources: dict[str, Callable[[], int | str] | None] = {
            "providers": door.providers, "reachability": door.reachability, "warnings": door.warnings,
        }  # fmt: skip
        known = {name: tell() for name, tell in sources.items() if tell is not None}
        return json_response({"status": "ok", "models": len(door.models()), **known})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST /generate."""
        principal = self._door.admit(request)
        body = await self._door.read(request)
        asked = decode(body, _DECODER)
        prompt = Prompt(
            model=asked.model, dialect=Dialect.NATIVE, texts=(asked.prompt,), max_tokens=asked.max_tokens,
            seed=asked.seed, qos=asked.qos, timeout_s=asked.timeout_s,
        )  # fmt: skip
        inference = self._door.envelope(request, prompt, body)
        framing = _Framing(asked.model, inference)
        return await answer(self._door, request, inference, principal, framing, stream=asked.stream)


class _Framing:
    content_type = "application/x-ndjson"

    def __init__(self, model: str, inference: InferenceRequest) -> None:
        self._model, self._inference = model, inference

    def chunk(self, text: str) -> bytes:
        return b'{"text":' + msgspec.json.encode(text) + b',"done":false}\n'

    def final(self, final: Final) -> bytes:
        return msgspec.json.encode({"text": "", "done": True, **self._summary(final)}) + b"\n"

    def failure(self, problem: Problem) -> bytes:
        return msgspec.json.encode(shape_problem(problem)) + b"\n"

    def whole(self, text: str, final: Final) -> dict[str, Any]:
        return {"text": text, "done": True, **self._summary(final)}

    def _summary(self, final: Final) -> dict[str, Any]:
        return {
            "model": self._model,
            "done_reason": final.done_reason,
            "prompt_tokens": final.prompt_tokens,
            "completion_tokens": final.completion_tokens,
            "quiver": encode_final(final, request_id=self._inference.request_id, max_tokens=self._inference.max_tokens),
        }
