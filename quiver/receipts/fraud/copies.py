"""The same thing sold or signed twice: replayed answers, and two histories of one channel."""

from __future__ import annotations

from dataclasses import dataclass

from quiver.receipts.fraud.detector import conclude
from quiver.receipts.history import History
from quiver.values.evidence import Evidence

# Short answers repeat by chance: yes, no, 42.
ANSWER_TOKENS_MIN = 32
ANSWERS_MIN = 5


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Score: share of the provider's answers that had been billed for another request before.

    A popular prompt asked again at temperature 0 is answered alike by honest providers too, so a share counts and not a case.
    """

    name: str = "replay"
    threshold: float = 0.25

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 with fewer than `ANSWERS_MIN` answers of at least `ANSWER_TOKENS_MIN` tokens."""
        long = [one for one in history.requests.values() if one.completion_tokens >= ANSWER_TOKENS_MIN]
        resold = sum(one.is_resold for one in long)
        share = resold / len(long) if len(long) >= ANSWERS_MIN else 0.0
        return conclude(
            history, now_ms, detector=self.name, score=share, threshold=self.threshold,
            reasons=[f"{resold} of {len(long)} answers were billed before"],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Equivocation:
    """Score: contradicting histories it signed. One is a proof: nobody signs two by accident."""

    name: str = "equivocation"
    threshold: float = 0.0

    def score(self, history: History, now_ms: int) -> Evidence:
        """The number of forks seen."""
        return conclude(
            history, now_ms, detector=self.name, score=float(len(history.forks)), threshold=self.threshold,
            reasons=list(history.forks),
        )  # fmt: skip
