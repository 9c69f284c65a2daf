"""Ollama's native API as the mock serves it: generate, chat, inventory, pull and delete."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from aiohttp import web

from quiver.live.backends.mock.answer import ENGINE, body_of, fault_of, json_response, respond
from quiver.live.backends.mock.config import MockModel
from quiver.live.backends.mock.engine import Finished, MockEngine, context_of
from quiver.live.backends.mock.options import make_job, parse_keep_alive, parse_options, render_chat, split_beginning
from quiver.live.backends.mock.runner import EngineError

VERSION = "0.33.0"
FOREVER = timedelta(days=100 * 365)
"What `/api/ps` shows for a model that never expires."
PULL_STEPS = 4


def routes() -> list[web.RouteDef]:
    """For `Application.add_routes`."""
    return [
        web.get("/", _root),
        web.get("/api/version", _version),
        web.get("/api/tags", _tags),
        web.get("/api/ps", _ps),
        web.post("/api/show", _show),
        web.post("/api/generate", _generate),
        web.post("/api/chat", _chat),
        web.post("/api/pull", _pull),
        web.delete("/api/delete", _delete),
    ]


async def _root(request: web.Request) -> web.Response:
    return web.Response(text="Ollama is running")


async def _version(request: web.Request) -> web.Response:
    return json_response({"version": VERSION})


async def _tags(request: web.Request) -> web.Response:
    models = request.app[ENGINE].memory.disk.values()
    return json_response({"models": [{**_describe(model), "modified_at": _now()} for model in models]})


async def _ps(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    entries = []
    for runner in engine.memory.loaded():
        left_s = runner.expires_at - engine.now()
        expires = datetime.now(UTC) + (FOREVER if math.isinf(left_s) else timedelta(seconds=left_s))
        options = dict(runner.options)
        context = options.get("num_ctx") or runner.model.context_tokens
        entry = {"expires_at": _stamp(expires), "size_vram": runner.model.size_bytes, "context_length": context}
        entries.append({**_describe(runner.model), **entry})
    return json_response({"models": entries})


async def _show(request: web.Request) -> web.Response:
    model = request.app[ENGINE].memory.find(str((await body_of(request)).get("model") or ""))
    info = {"general.architecture": "mock", "mock.context_length": model.context_tokens}
    described = {"details": _describe(model)["details"], "model_info": info, "capabilities": ["completion"]}
    return json_response({**described, "modified_at": _now()})


async def _generate(request: web.Request) -> web.StreamResponse:
    body = await body_of(request)
    engine, name = request.app[ENGINE], _name_of(body)
    prompt, raw = _text(body, "prompt"), bool(body.get("raw"))
    if raw and (body.get("template") or body.get("system") or body.get("context")):
        raise EngineError(400, "raw mode does not support template, system, or context")
    options = parse_options(body.get("options"))
    if not prompt:
        return await _load_only(engine, name, body, options, {"response": ""})
    system = _text(body, "system")
    first = [{"role": "system", "content": system}] if system else []
    rendered = prompt if raw else render_chat([*first, {"role": "user", "content": prompt}])
    job = make_job(
        name, rendered, options, format=body.get("format"), keep_alive_s=parse_keep_alive(body.get("keep_alive")),
        fault=fault_of(request),
    )  # fmt: skip
    writing = _Writing(name, chat=False, context=None if raw else context_of(rendered))
    return await respond(request, job, writing, stream=body.get("stream") is not False)


async def _chat(request: web.Request) -> web.StreamResponse:
    body = await body_of(request)
    engine, name = request.app[ENGINE], _name_of(body)
    messages = body.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise EngineError(400, "json: cannot unmarshal into Go struct field ChatRequest.messages of type []api.Message")
    options = parse_options(body.get("options"))
    if not messages:
        return await _load_only(engine, name, body, options, {"message": {"role": "assistant", "content": ""}})
    asked, beginning = split_beginning(messages)
    job = make_job(
        name, render_chat(asked), options, beginning=beginning, format=body.get("format"),
        keep_alive_s=parse_keep_alive(body.get("keep_alive")), fault=fault_of(request),
    )  # fmt: skip
    return await respond(request, job, _Writing(name, chat=True, context=None), stream=body.get("stream") is not False)


async def _load_only(
    engine: MockEngine, name: str, body: Mapping[str, Any], options: Mapping[str, Any], part: dict[str, Any]
) -> web.Response:
    keep_alive_s = parse_keep_alive(body.get("keep_alive"))
    model = engine.memory.find(name)
    if keep_alive_s == 0:
        for runner in engine.memory.loaded():
            if runner.model is model:
                engine.memory.unload(runner)
    else:
        job = make_job(name, "", options)
        runner, _ = await engine.memory.acquire(model, job.load_options)
        engine.memory.release(runner, engine.config.keep_alive_s if keep_alive_s is None else keep_alive_s)
    reason = "unload" if keep_alive_s == 0 else "load"
    return json_response({"model": name, "created_at": _now(), **part, "done": True, "done_reason": reason})


async def _pull(request: web.Request) -> web.StreamResponse:
    body = await body_of(request)
    engine, name = request.app[ENGINE], _name_of(body)
    known = {model.name: model for model in engine.config.models}
    model = known.get(name) or known.get(f"{name}:latest")
    missing = {"error": "pull model manifest: file does not exist"}
    if body.get("stream") is False:
        if model is None:
            return json_response(missing, 500)
        engine.memory.disk[model.name] = model
        return json_response({"status": "success"})
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    await response.write(_line({"status": "pulling manifest"}))
    if model is None:
        await response.write(_line(missing))
    else:
        blob = {
            "status": f"pulling {model.digest_hex[:12]}",
            "digest": f"sha256:{model.digest_hex}",
            "total": model.size_bytes,
        }
        for step in range(PULL_STEPS + 1):
            done = model.size_bytes * step // PULL_STEPS
            await response.write(_line({**blob, "completed": done} if done else blob))
        for status in ("verifying sha256 digest", "writing manifest"):
            await response.write(_line({"status": status}))
        engine.memory.disk[model.name] = model
        await response.write(_line({"status": "success"}))
    await response.write_eof()
    return response


async def _delete(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    model = engine.memory.find(_name_of(await body_of(request)))
    del engine.memory.disk[model.name]
    for runner in engine.memory.loaded():
        if runner.model is model:
            engine.memory.unload(runner)
    return web.Response()


class _Writing:
    content_type = "application/x-ndjson"

    def __init__(self, model: str, *, chat: bool, context: list[int] | None) -> None:
        self._model, self._chat, self._context = model, chat, context

    def piece(self, text: str) -> bytes:
        return _line({**self._head(text), "done": False})

    def last(self, finished: Finished) -> bytes:
        return _line(self.whole("", finished))

    def garbage(self) -> bytes:
        return b'{"model":"x","respon\n'

    def error(self, message: str) -> bytes:
        return _line({"error": message})

    def whole(self, text: str, finished: Finished) -> dict[str, Any]:
        last = {**self._head(text), "done": True, "done_reason": finished.done_reason}
        if self._context is not None:
            last["context"] = self._context
        metrics = {
            "total_duration": finished.total_duration, "load_duration": finished.load_duration,
            "prompt_eval_count": finished.prompt_eval_count, "prompt_eval_duration": finished.prompt_eval_duration,
            "eval_count": finished.eval_count, "eval_duration": finished.eval_duration,
        }  # fmt: skip
        # Go's omitempty: a metric that is zero is absent.
        return {**last, **{name: value for name, value in metrics.items() if value}}

    def _head(self, text: str) -> dict[str, Any]:
        part: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"response": text}
        return {"model": self._model, "created_at": _now(), **part}


def _name_of(body: Mapping[str, Any]) -> str:
    name = _text(body, "model")
    if not name:
        raise EngineError(400, "model is required")
    return name


def _text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field) or ""
    if not isinstance(value, str):
        raise EngineError(
            400, f"json: cannot unmarshal {type(value).__name__} into Go struct field .{field} of type string"
        )
    return value


def _describe(model: MockModel) -> dict[str, Any]:
    details = {
        "parent_model": "", "format": "gguf", "family": "mock", "families": ["mock"], "parameter_size": "8.0B",
        "quantization_level": "Q4_K_M", "context_length": model.context_tokens,
    }  # fmt: skip
    return {
        "name": model.name, "model": model.name, "size": model.size_bytes, "digest": model.digest_hex, "details": details,
    }  # fmt: skip


def _stamp(at: datetime) -> str:
    # Go prints nine digits; Python's clock knows six.
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def _now() -> str:
    return _stamp(datetime.now(UTC))


def _line(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"
