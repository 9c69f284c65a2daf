"""`InferenceBackend` on an Ollama server (its native API; see https://github.com/ollama/ollama/blob/main/docs/api.md).

A stream that ends without `done` is a failure here: the official client would take it for an answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from quiver.errors import QuiverError, Unavailable
from quiver.ids import model_id_from_digest
from quiver.live.backends.engine import SILENCE_S, EngineClient, count, decode
from quiver.live.backends.lines import read_lines
from quiver.live.backends.translate import to_ollama
from quiver.values.backend import BackendRequest, InstalledModel, Piece

CONTEXT_TOKENS_DEFAULT = 4096
"Ollama's own default on small machines; newer servers report each model's."


class OllamaBackend:
    """Ollama at `url`, such as http://127.0.0.1:11434."""

    def __init__(self, url: str, *, silence_s: float = SILENCE_S) -> None:
        self._client = EngineClient(url, silence_s=silence_s)

    async def models(self) -> Sequence[InstalledModel]:
        """`/api/tags`, with what `/api/ps` says is loaded. A model with an unreadable digest is left out."""
        tags, running = await self._client.get_json("/api/tags"), await self._client.get_json("/api/ps")
        loaded = {entry.get("model"): entry for entry in _models_of(running)}
        installed = []
        for entry in _models_of(tags):
            try:
                model = model_id_from_digest(str(entry.get("digest")))
            except ValueError:
                continue
            name = str(entry.get("model") or entry.get("name"))
            warm = loaded.get(name)
            details = entry.get("details")
            context = count((warm or {}).get("context_length")) or count((details or {}).get("context_length"))
            installed.append(
                InstalledModel(
                    name=name,
                    model=model,
                    size_bytes=count(entry.get("size")),
                    warm=warm is not None,
                    context_tokens=context or CONTEXT_TOKENS_DEFAULT,
                )  # fmt: skip
            )
        return installed

    async def generate(self, request: BackendRequest) -> AsyncIterator[Piece]:
        """One piece a line. Ollama sends one token a line, so each counts as one; the last piece has its own total."""
        path, payload = to_ollama(request)
        async with self._client.streaming(path, payload) as chunks, aclosing(read_lines(chunks)) as lines:
            async for line in lines:
                if not line:
                    continue
                piece = _piece(decode(line))
                if piece is not None:
                    yield piece
                if piece is not None and piece.done_reason is not None:
                    return
        raise Unavailable("the engine's answer was cut: its stream ended without `done`")

    async def health(self) -> str | None:
        """None when `/api/version` answers."""
        try:
            await self._client.get_json("/api/version")
        except QuiverError as error:
            return f"Ollama does not answer: {error}"
        return None

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()


def _models_of(answer: Any) -> list[dict[str, Any]]:
    models = answer.get("models") if isinstance(answer, dict) else None
    return [entry for entry in models or () if isinstance(entry, dict)]


def _piece(line: Any) -> Piece | None:
    if not isinstance(line, dict):
        raise Unavailable(f"the engine sent a line that is not an object: {str(line)[:80]}")
    if "error" in line:
        raise Unavailable(f"the engine failed half-way: {str(line['error'])[:500]}")
    message = line.get("message")
    text = (message.get("content") if isinstance(message, dict) else line.get("response")) or ""
    if not isinstance(text, str):
        raise Unavailable("the engine sent a text that is not a text")
    tokens = 1 if text else 0
    if not line.get("done"):
        return Piece(text=text, tokens=tokens) if text else None
    return Piece(
        text=text, tokens=tokens, prompt_tokens=count(line.get("prompt_eval_count")),
        done_reason=str(line.get("done_reason") or "stop"), completion_tokens=count(line.get("eval_count")),
    )  # fmt: skip
