"""`InferenceBackend` on any server that speaks OpenAI's chat completions: llama-server, vLLM, SGLang, LM Studio.

Such a server does not tell a model's content digest, so the operator's config pins each name to one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from quiver.errors import QuiverError, Unavailable
from quiver.ids import ModelId
from quiver.live.backends.engine import SILENCE_S, EngineClient, count, decode
from quiver.live.backends.lines import read_lines
from quiver.live.backends.translate import to_openai
from quiver.values.backend import BackendRequest, InstalledModel, Piece


class OpenAICompatibleBackend:
    """The server at `url` (without `/v1`), serving the models of `digests` that it lists."""

    def __init__(
        self, url: str, *, digests: Mapping[str, ModelId], api_key: str | None = None, silence_s: float = SILENCE_S
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = EngineClient(url.rstrip("/").removesuffix("/v1"), headers=headers, silence_s=silence_s)
        self._digests = dict(digests)

    async def models(self) -> Sequence[InstalledModel]:
        """`/v1/models`, as far as the config knows their digests. Whether a model is warm is not told: assumed."""
        answer = await self._client.get_json("/v1/models")
        entries = answer.get("data") if isinstance(answer, dict) else None
        names = [str(entry.get("id")) for entry in entries or () if isinstance(entry, dict)]
        return [
            InstalledModel(name=name, model=self._digests[name], warm=True) for name in names if name in self._digests
        ]

    async def generate(self, request: BackendRequest) -> AsyncIterator[Piece]:
        """One piece a content delta, each counted as one token; the last piece has the server's own usage."""
        done_reason: str | None = None
        usage: dict[str, Any] = {}
        async with (
            self._client.streaming("/v1/chat/completions", to_openai(request)) as chunks,
            aclosing(read_lines(chunks)) as lines,
        ):
            async for line in lines:
                # Server-sent events: comments, blank lines and other fields carry nothing here.
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    break
                event = _event(decode(data))
                usage = event.get("usage") or usage
                text, reason = _delta(event)
                done_reason = reason or done_reason
                if text:
                    yield Piece(text=text, tokens=1)
        if done_reason is None:
            raise Unavailable("the engine's answer was cut: its stream ended without `finish_reason`")
        completion = count(usage.get("completion_tokens"))
        prompt = count(usage.get("prompt_tokens"))
        yield Piece(
            text="", tokens=0, prompt_tokens=prompt, done_reason=done_reason, completion_tokens=completion or None
        )

    async def health(self) -> str | None:
        """None when `/v1/models` answers."""
        try:
            await self._client.get_json("/v1/models")
        except QuiverError as error:
            return f"the engine does not answer: {error}"
        return None

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()


def _event(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unavailable(f"the engine sent an event that is not an object: {str(value)[:80]}")
    if error := value.get("error"):
        message = error.get("message") if isinstance(error, dict) else error
        raise Unavailable(f"the engine failed half-way: {str(message)[:500]}")
    return value


def _delta(event: dict[str, Any]) -> tuple[str, str | None]:
    choices = event.get("choices") or ()
    if not choices:
        return "", None
    choice = choices[0] if isinstance(choices, list) and isinstance(choices[0], dict) else {}
    delta = choice.get("delta")
    text = (delta.get("content") if isinstance(delta, dict) else None) or ""
    reason = choice.get("finish_reason")
    return str(text), str(reason) if reason else None
