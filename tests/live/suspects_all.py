"""A fraud detector of somebody else's, in a file of its own: it suspects everybody a little, so others' word decides."""

from __future__ import annotations

from quiver.receipts.fraud.detector import conclude


class SuspectsAll:
    """Whoever billed anything."""

    name = "suspects-all"

    def score(self, history, now_ms):
        """2 with any receipt, where 1 is suspicious."""
        reasons = [f"{len(history.requests)} requests"]
        return conclude(
            history, now_ms, detector=self.name, score=2.0 if history.requests else 0.0, threshold=1.0, reasons=reasons
        )
