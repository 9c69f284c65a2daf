"""A backend that answers at once: to measure the protocol without an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from quiver.ids import RequestId
from quiver.values.backend import BackendRequest, InstalledModel, Piece

_TEXT = "tok "


class InstantBackend:
    """`chunk_tokens` tokens a piece, no waiting, no divergence."""

    def __init__(
        self, models: Sequence[InstalledModel], *, output_tokens: Callable[[RequestId], int], chunk_tokens: int
    ) -> None:
        self._models = models
        self._output_tokens = output_tokens
        self._chunk_tokens = chunk_tokens

    async def models(self) -> Sequence[InstalledModel]:
        return self._models

    async def health(self) -> str | None:
        return None

    async def close(self) -> None:
        """Nothing is held."""

    async def generate(self, request: BackendRequest) -> AsyncIterator[Piece]:
        """All pieces at the same instant."""
        left = total = min(self._output_tokens(request.request_id), request.max_tokens)
        while left > 0:
            tokens = min(self._chunk_tokens, left)
            left -= tokens
            yield Piece(
                text=_TEXT * tokens, tokens=tokens, prompt_tokens=request.prompt_tokens_estimate,
                done_reason=None if left else "stop", completion_tokens=None if left else total,
            )  # fmt: skip
