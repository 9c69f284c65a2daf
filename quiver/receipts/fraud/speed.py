"""Too much for one machine: more tokens a second than it offered, or more requests at once than it has slots. And too little.

Speed and overlap take the offer at its word, which is in the provider's favour: at batch 1 a machine is as fast as it ever is, so a request
holds a slot at least as long as its tokens take at that speed. Times are the provider's own stamps: a forger must spread them,
and then bills no more than its machine could.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from quiver.receipts.fraud.detector import conclude
from quiver.receipts.history import BilledRequest, History
from quiver.values.evidence import Evidence

# Fewer requests say nothing about a machine.
REQUESTS_MIN = 5
# One of so many is likely to have been alone.
STREAMS_MIN = 10
# Engines vary by request and stamps by milliseconds: a slot is surely held for this share of the least time.
SURE_SHARE = 0.7


def compute_least_ms(history: History, request: BilledRequest, tokens: int) -> float | None:
    """Milliseconds that `tokens` of this request take at the offered speed; None without an offer of its model."""
    terms = history.offers.get(request.model)
    return None if terms is None or terms.decode_tps <= 0 else 1000 * tokens / terms.decode_tps


def compute_stream_speeds(history: History) -> list[float]:
    """Speed between the first and the last receipt of each request that has several, as a share of what was offered."""
    speeds = []
    for request in history.requests.values():
        tokens, took_ms = request.completion_tokens - request.first_tokens, request.last_ms - request.first_ms
        least_ms = compute_least_ms(history, request, tokens)
        if least_ms is not None and tokens > 0:
            speeds.append(least_ms / max(took_ms, 1))
    return speeds


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Score: billed decode time over the time there was, of all slots together or of the median stream."""

    name: str = "speed"
    threshold: float = 1.25
    "Engines vary from request to request, by 10 to 20 %; a median keeps little of it."

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 without an offer, or with fewer than `REQUESTS_MIN` requests to judge."""
        found = [*self._whole(history), *self._streams(history)]
        found.sort(reverse=True)
        return conclude(
            history, now_ms, detector=self.name, score=found[0][0] if found else 0.0, threshold=self.threshold,
            reasons=[reason for _, reason in found],
        )  # fmt: skip

    @staticmethod
    def _whole(history: History) -> list[tuple[float, str]]:
        begun, ended, work_ms = [], [], 0.0
        for request in history.requests.values():
            least_ms = compute_least_ms(history, request, request.completion_tokens)
            if least_ms is not None:
                work_ms += least_ms
                begun.append(request.last_ms - least_ms)
                ended.append(request.last_ms)
        if len(ended) < REQUESTS_MIN or not history.slots:
            return []
        share = work_ms / (history.slots * max(max(ended) - min(begun), 1.0))
        return [(share, f"{len(ended)} requests bill {share:.2f} times what {history.slots} slots can decode")]

    @staticmethod
    def _streams(history: History) -> list[tuple[float, str]]:
        speeds = compute_stream_speeds(history)
        if len(speeds) < REQUESTS_MIN:
            return []
        middle = median(speeds)
        return [(middle, f"the median of {len(speeds)} streams is {middle:.2f} times as fast as offered")]


@dataclass(frozen=True, kw_only=True)
class Boast:
    """Score: offered speed over that of the fastest stream it ever billed.

    An honest machine reaches its offer whenever it serves one stream alone; one that is never alone looks slower than it is.
    """

    name: str = "boast"
    threshold: float = 3.0

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 without an offer, or with fewer than `STREAMS_MIN` streams."""
        speeds = compute_stream_speeds(history)
        fastest = max(speeds) if len(speeds) >= STREAMS_MIN else 0.0
        return conclude(
            history, now_ms, detector=self.name, score=1 / fastest if fastest else 0.0, threshold=self.threshold,
            reasons=[f"the fastest of {len(speeds)} streams had {fastest:.0%} of the offered speed"],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Score: requests served at the same moment over slots."""

    name: str = "overlap"
    threshold: float = 1.0

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 without an offer, and while nothing overlaps."""
        edges: list[tuple[float, int]] = []
        for request in history.requests.values():
            least_ms = compute_least_ms(history, request, request.completion_tokens)
            if least_ms is not None:
                begun = min(request.first_ms, request.last_ms - SURE_SHARE * least_ms)
                if begun < request.last_ms:
                    edges += [(begun, 1), (request.last_ms, -1)]
        most = at_once = 0
        # Ends come first: a slot that is given back may be taken at once.
        for _, change in sorted(edges):
            at_once += change
            most = max(most, at_once)
        if not history.slots or most < 2:
            return conclude(history, now_ms, detector=self.name, score=0.0, threshold=self.threshold)
        return conclude(
            history, now_ms, detector=self.name, score=most / history.slots, threshold=self.threshold,
            reasons=[f"{most} requests at once on {history.slots} slots"],
        )  # fmt: skip
