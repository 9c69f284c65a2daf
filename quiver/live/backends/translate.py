"""A client's body in any dialect, as the request of an engine's API. Pure.

Only known fields pass: a client must not reload a provider's model (`num_ctx`, `keep_alive`) or reach anything else of
the engine. The envelope's limits (`max_tokens`, `seed`, model name) override whatever the body says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from quiver.errors import RejectionReason, RequestRejected
from quiver.values.backend import BackendRequest
from quiver.values.request import Dialect

_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty",
    "frequency_penalty", "num_keep", "stop",
)  # fmt: skip
"Ollama options that do not reload a model."
_OPENAI_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "stop")
_OPENAI_FIELDS = (*_OPENAI_SAMPLING, "messages", "response_format", "seed")
_OLLAMA_GENERATE_FIELDS = ("prompt", "suffix", "system", "template", "raw", "images", "format", "context")


def to_ollama(request: BackendRequest) -> tuple[str, dict[str, Any]]:
    """(path, body) of an Ollama request that streams."""
    body = _body(request)
    options = _options(request, body)
    fixed = {"model": request.name, "stream": True, "think": False, "options": options}
    if request.dialect is Dialect.OLLAMA_GENERATE:
        return "/api/generate", {**_pick(body, _OLLAMA_GENERATE_FIELDS), **fixed}
    if request.dialect is Dialect.NATIVE:
        return "/api/generate", {"prompt": _text(body, "prompt"), **fixed}
    if request.dialect is Dialect.OLLAMA_CHAT:
        return "/api/chat", {**_pick(body, ("messages", "format")), **fixed}
    messages = [_ollama_message(message) for message in _messages(body)]
    return "/api/chat", {"messages": messages, **_ollama_format(body.get("response_format")), **fixed}


def to_openai(request: BackendRequest) -> dict[str, Any]:
    """Body of a chat completion that streams and reports its usage."""
    body = _body(request)
    fixed: dict[str, Any] = {
        "model": request.name, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": request.max_tokens,
    }  # fmt: skip
    if request.seed is not None:
        fixed["seed"] = request.seed
    if request.dialect is Dialect.OPENAI_CHAT:
        return {**_pick(body, _OPENAI_FIELDS), **fixed}
    if request.dialect is Dialect.NATIVE:
        messages = [{"role": "user", "content": _text(body, "prompt")}]
        return {"messages": messages, **_pick(body, _OPENAI_SAMPLING), **fixed}
    sampling = _pick(_mapping(body.get("options") or {}, "options"), _OPENAI_SAMPLING)
    shared = {**sampling, **_openai_format(body.get("format")), **fixed}
    if request.dialect is Dialect.OLLAMA_CHAT:
        return {"messages": [_openai_message(message) for message in _messages(body)], **shared}
    for field in ("raw", "template", "suffix", "context"):
        if body.get(field):
            raise _refused(f"{field!r} needs an Ollama engine, this provider's speaks the OpenAI API: leave it out")
    system = [{"role": "system", "content": _text(body, "system")}] if body.get("system") else []
    user = _openai_message({"role": "user", "content": _text(body, "prompt"), "images": body.get("images")})
    return {"messages": [*system, user], **shared}


def _options(request: BackendRequest, body: Mapping[str, Any]) -> dict[str, Any]:
    if request.dialect is Dialect.OPENAI_CHAT:
        # Ollama's own OpenAI door does the same: the defaults of that API, not of the native one.
        options = {"temperature": 1.0, "top_p": 1.0, **_pick(body, _OPENAI_SAMPLING)}
    elif request.dialect is Dialect.NATIVE:
        options = _pick(body, ("temperature", "top_p", "stop"))
    else:
        options = _pick(_mapping(body.get("options") or {}, "options"), _SAMPLING)
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    options["num_predict"] = request.max_tokens
    if request.seed is not None:
        options["seed"] = request.seed
    return options


def _ollama_message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return {"role": message.get("role"), "content": content or ""}
    parts = [_mapping(part, "messages.content") for part in content]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    urls = [
        _mapping(part.get("image_url"), "image_url").get("url") for part in parts if part.get("type") == "image_url"
    ]
    translated: dict[str, Any] = {"role": message.get("role"), "content": "\n".join(texts)}
    if urls:
        translated["images"] = [_base64_of(url) for url in urls]
    return translated


def _base64_of(url: Any) -> str:
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise _refused("images must be data: URLs in base64: providers fetch nothing from the web")
    return str(data)


def _openai_message(message: Mapping[str, Any]) -> dict[str, Any]:
    images = message.get("images")
    if not images:
        return {"role": message.get("role"), "content": message.get("content", "")}
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise _refused("images must be a list of base64 texts")
    pictures = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images]
    return {"role": message.get("role"), "content": [{"type": "text", "text": message.get("content", "")}, *pictures]}


def _ollama_format(response_format: Any) -> dict[str, Any]:
    if not isinstance(response_format, dict):
        return {}
    if response_format.get("type") == "json_object":
        return {"format": "json"}
    if response_format.get("type") == "json_schema":
        return {"format": _mapping(response_format.get("json_schema"), "json_schema").get("schema", "json")}
    return {}


def _openai_format(wanted: Any) -> dict[str, Any]:
    if wanted == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(wanted, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}}
    return {}


def _body(request: BackendRequest) -> dict[str, Any]:
    try:
        return msgspec.json.decode(request.body, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _refused(f"the body is not a JSON object: {error}") from error


def _messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _refused("messages must be a list with at least one message")
    return [_mapping(message, "messages") for message in messages]


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _refused(f"{name} must hold objects")
    return value


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _refused(f"{name} must be a text")
    return value


def _pick(source: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: source[name] for name in names if source.get(name) is not None}


def _refused(message: str) -> RequestRejected:
    return RequestRejected(RejectionReason.BAD_REQUEST, message)
