"""How long a modelled engine takes. Seconds; pure, noise from the rng handed in."""

from __future__ import annotations

import random

from quiver.live.backends.mock.config import REFERENCE_BYTES, Profile

WARM_LOAD_S = 0.004
"What Ollama reports for handing out a loaded runner (its api.md shows 2.5 to 6.7 ms)."
PREFILL_OVERHEAD_S = 0.02
BATCH_TOKENS = 512
"llama.cpp's logical batch: a decoding stream waits for at most one batch of another's prompt."


class Timing:
    """A profile, scaled to a model's size."""

    def __init__(self, profile: Profile, size_bytes: int) -> None:
        self._profile = profile
        self._scale = size_bytes / REFERENCE_BYTES

    def load_s(self) -> float:
        """Cold load from disk."""
        return self._profile.load_s * self._scale

    def prefill_s(self, new_tokens: int) -> float:
        """Evaluating the part of a prompt that is not cached."""
        linear = new_tokens / self._profile.prefill_tps
        return PREFILL_OVERHEAD_S + (linear + self._profile.prefill_quadratic_s * new_tokens**2) * self._scale

    def token_s(self, *, streams: int, context_tokens: int, rng: random.Random) -> float:
        """One decode step with `streams` streams in the batch."""
        alone = (1.0 / self._profile.decode_tps + self._profile.context_s * context_tokens) * self._scale
        return (
            alone * (1.0 + self._profile.batch_slowdown * (streams - 1)) * rng.lognormvariate(0.0, self._profile.sigma)
        )

    def stall_s(self, others_prompt_tokens: int) -> float:
        """What another stream's prompt costs a stream that is decoding."""
        return min(others_prompt_tokens, BATCH_TOKENS) / self._profile.prefill_tps * self._scale
