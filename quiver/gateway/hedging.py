"""When a second provider is asked while the first is silent, and how often at most. No I/O, no clock.

Dean & Barroso, "The Tail at Scale" (CACM 2013): wait for the time by which most of this kind have answered, then ask one
other. Under overload a second copy makes things worse, so hedges have a budget, as in gRPC's A6: retries and hedging.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

import msgspec

from quiver.errors import UsageError
from quiver.ids import ModelId
from quiver.values.request import InferenceRequest

# Below this many samples a 95th percentile is one or two outliers: no hedge.
SAMPLES_MIN = 50
# Newest times to first token kept for each model and length of prompt.
SAMPLES_MAX = 256
# Hedges that a quiet hour may save up for a bad minute.
SAVED_MAX = 10
# The budget is counted in millionths of a hedge: sums of 0.05 are not exact.
_ONE = 1_000_000


class HedgeTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator's choice. The defaults follow Dean & Barroso: about 5 % more load."""

    after_s: float | None = None
    "Silence before a second provider is asked, seconds. None: `quantile` of what was seen for this model and length of prompt."
    quantile: float = 0.95
    share: float = 0.05
    "Hedges for each request, on average at most."

    def __post_init__(self) -> None:
        if self.after_s is not None and not 0 < self.after_s < math.inf:
            raise UsageError(f"hedging: after_s is {self.after_s}: it must be more than 0 seconds, or left out")
        if not 0 < self.quantile < 1:
            raise UsageError(f"hedging: quantile is {self.quantile}: it must be between 0 and 1")
        if not 0 < self.share <= 1:
            raise UsageError(f"hedging: share is {self.share}: it must be more than 0 and at most 1")


class _Window:
    """The newest samples, also in order of size."""

    __slots__ = ("_newest", "_sorted")

    def __init__(self) -> None:
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, sample: float) -> None:
        self._newest.append(sample)
        insort(self._sorted, sample)
        if len(self._newest) > SAMPLES_MAX:
            del self._sorted[bisect_left(self._sorted, self._newest.popleft())]

    def quantile(self, q: float) -> float | None:
        """Smallest sample that at least a share `q` of all does not exceed; None while there are too few."""
        count = len(self._sorted)
        return self._sorted[math.ceil(q * count) - 1] if count >= SAMPLES_MIN else None


class Hedging:
    """Of one gateway."""

    __slots__ = ("terms", "_windows", "_saved")

    def __init__(self, terms: HedgeTerms) -> None:
        self.terms = terms
        self._windows: dict[tuple[ModelId, int], _Window] = {}
        self._saved = 0

    def on_request(self) -> None:
        """A request was let in: it adds its share to the budget."""
        self._saved = min(self._saved + round(self.terms.share * _ONE), SAVED_MAX * _ONE)

    def on_first_token(self, request: InferenceRequest, model: ModelId, ttft_s: float) -> None:
        """What a request waited from its first dispatch, hedged or not: without the hedged ones the quantile would creep down."""
        self._windows.setdefault(_kind(request, model), _Window()).add(ttft_s)

    def delay_s(self, request: InferenceRequest, model: ModelId) -> float | None:
        """How long the first provider may be silent, seconds; None: this request is not hedged."""
        if request.sealed or request.once:
            return None
        if self.terms.after_s is not None:
            return self.terms.after_s
        window = self._windows.get(_kind(request, model))
        return None if window is None else window.quantile(self.terms.quantile)

    def take(self) -> bool:
        """One hedge of the budget; False if it is used up."""
        if self._saved < _ONE:
            return False
        self._saved -= _ONE
        return True


def _kind(request: InferenceRequest, model: ModelId) -> tuple[ModelId, int]:
    """Prefill takes longer for a longer prompt: each step is a factor of four."""
    return model, request.prompt_tokens_estimate.bit_length() // 2
