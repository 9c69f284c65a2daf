"""The OpenAI shape as Ollama serves it: chat completions and models, with that API's own sampling defaults."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from quiver.live.backends.mock.answer import ENGINE, body_of, fault_of, json_response, respond
from quiver.live.backends.mock.engine import Finished
from quiver.live.backends.mock.options import make_job, parse_options, render_chat, split_beginning
from quiver.live.backends.mock.runner import EngineError

_numbers = itertools.count(1)


def routes() -> list[web.RouteDef]:
    """For `Application.add_routes`."""
    return [
        web.post("/v1/chat/completions", _chat),
        web.get("/v1/models", _models),
        web.get("/v1/models/{model:.+}", _model),
    ]


async def _models(request: web.Request) -> web.Response:
    names = list(request.app[ENGINE].memory.disk)
    # Ollama sends null, not an empty list.
    return json_response({"object": "list", "data": [_entry(name) for name in names] or None})


async def _model(request: web.Request) -> web.Response:
    return json_response(_entry(request.app[ENGINE].memory.find(request.match_info["model"]).name))


async def _chat(request: web.Request) -> web.StreamResponse:
    body = await body_of(request)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise EngineError(400, "[] is too short - 'messages'")
    flat = [{"role": message.get("role"), "content": _flatten(message.get("content"))} for message in messages]
    stop = body.get("stop")
    raw = {
        "temperature": _given(body, "temperature", 1.0), "top_p": _given(body, "top_p", 1.0), "seed": body.get("seed"),
        "num_predict": body.get("max_tokens"), "stop": [stop] if isinstance(stop, str) else stop,
        "frequency_penalty": body.get("frequency_penalty"), "presence_penalty": body.get("presence_penalty"),
    }  # fmt: skip
    options = parse_options({name: value for name, value in raw.items() if value is not None})
    wanted = body.get("response_format")
    name = str(body.get("model") or "")
    asked, beginning = split_beginning(flat)
    job = make_job(
        name, render_chat(asked), options, beginning=beginning, format=_format(wanted), fault=fault_of(request)
    )
    stream_options = body.get("stream_options")
    usage = isinstance(stream_options, dict) and bool(stream_options.get("include_usage"))
    return await respond(request, job, _Writing(name, include_usage=usage), stream=body.get("stream") is True)


def _given(body: Mapping[str, Any], name: str, default: float) -> Any:
    return default if body.get(name) is None else body[name]


def _flatten(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _format(wanted: Any) -> Any:
    if not isinstance(wanted, dict) or wanted.get("type") not in ("json_object", "json_schema"):
        return None
    schema = wanted.get("json_schema")
    return schema.get("schema") if isinstance(schema, dict) else "json"


class _Writing:
    content_type = "text/event-stream"

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{next(_numbers)}", "created": int(time.time()), "model": model,
            "system_fingerprint": "fp_ollama",
        }  # fmt: skip

    def piece(self, text: str) -> bytes:
        return self._chunk([{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}])

    def last(self, finished: Finished) -> bytes:
        data = self._chunk([{"index": 0, "delta": {}, "finish_reason": finished.done_reason}])
        if self._include_usage:
            data += self._chunk([], usage=_usage(finished))
        return data + b"data: [DONE]\n\n"

    def garbage(self) -> bytes:
        return b'data: {"id":"x","choi\n\n'

    def error(self, message: str) -> bytes:
        return b"data: " + msgspec.json.encode(error_body(500, message)) + b"\n\n"

    def whole(self, text: str, finished: Finished) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": finished.done_reason}]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": _usage(finished)}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def error_body(status: int, message: str) -> dict[str, Any]:
    """The error object of this API, in Ollama's words."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _usage(finished: Finished) -> dict[str, int]:
    prompt, completion = finished.prompt_eval_count, finished.eval_count
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "library"}
