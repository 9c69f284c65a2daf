"""From Ollama's `options`, `keep_alive` and messages to a `Job`. Pure; errors are `EngineError` with Ollama's texts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from quiver.live.backends.mock.engine import Job
from quiver.live.backends.mock.runner import EngineError

_LOAD_TIME = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
_INTEGERS = (
    "seed",
    "num_predict",
    "top_k",
    "num_keep",
    "repeat_last_n",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "num_thread",
)
_FLOATS = (
    "temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
_SAMPLING = ("top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_options(raw: Any) -> dict[str, Any]:
    """Typed options: floats for integers are cut, texts are refused, unknown names are dropped."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise EngineError(400, "json: cannot unmarshal options into Go struct field of type map[string]interface {}")
    options: dict[str, Any] = {}
    for name, value in raw.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _INTEGERS:
            if not number:
                raise EngineError(400, f'option "{name}" must be of type integer')
            options[name] = int(value)
        elif name in _FLOATS:
            if not number:
                raise EngineError(400, f'option "{name}" must be of type float32')
            options[name] = float(value)
        elif name == "stop":
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                raise EngineError(400, 'option "stop" must be of type array')
            options[name] = tuple(value)
        elif name in _LOAD_TIME:
            options[name] = value
    return options


def parse_keep_alive(raw: Any) -> float | None:
    """Seconds; a negative one is forever. None: the engine's default."""
    if raw is None:
        return None
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return math.inf if raw < 0 else float(raw)
    if isinstance(raw, str):
        text = raw.removeprefix("-")
        parts = _DURATION.findall(text)
        if text == "0" or (parts and "".join(number + unit for number, unit in parts) == text):
            seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
            return math.inf if raw.startswith("-") else seconds
    raise EngineError(400, f'time: invalid duration "{raw}"')


def split_beginning(messages: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], str]:
    """(messages, beginning of the answer): an assistant's word that comes last is continued, as Ollama and llama-server do."""
    last = messages[-1] if messages else {}
    return (messages[:-1], str(last.get("content") or "")) if last.get("role") == "assistant" else (messages, "")


def render_chat(messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt a chat template would make."""
    lines = [f"<|{message.get('role', '')}|>\n{message.get('content') or ''}" for message in messages]
    return "\n".join([*lines, "<|assistant|>\n"])


def make_job(model: str, prompt: str, options: Mapping[str, Any], *, beginning: str = "", **more: Any) -> Job:
    """A job from parsed options; the answer continues its `beginning`."""
    return Job(
        model=model,
        prompt=prompt + beginning,
        beginning=beginning,
        num_predict=options.get("num_predict", -1),
        temperature=options.get("temperature", 0.8),
        seed=options.get("seed"),
        stop=options.get("stop", ()),
        sampling={name: options[name] for name in _SAMPLING if name in options},
        load_options=tuple((name, options[name]) for name in _LOAD_TIME if name in options),
        **more,
    )
