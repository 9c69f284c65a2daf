"""The fraud detectors QUIVer brings, by name."""

from __future__ import annotations

from collections.abc import Iterable

from quiver.receipts.fraud import detector
from quiver.receipts.fraud.amounts import Amount, Tokens
from quiver.receipts.fraud.cluster import SelfDealing
from quiver.receipts.fraud.copies import Equivocation, Replay
from quiver.receipts.fraud.detector import Detector, Factory
from quiver.receipts.fraud.speed import Boast, Overlap, Speed
from quiver.receipts.history import Book
from quiver.values.evidence import Evidence

DETECTORS: dict[str, Factory] = {
    made().name: made for made in (Speed, Boast, Tokens, Amount, Overlap, Replay, SelfDealing, Equivocation)
}


def resolve(plug: str | Factory) -> Factory:
    """A detector by name, `module:Class`, `file.py:Class` or as a class, checked; `UsageError` says what is wrong."""
    return detector.resolve(plug, DETECTORS)


def judge(book: Book, detectors: Iterable[Detector], now_ms: int) -> list[Evidence]:
    """What every detector says of every provider, suspicious or not, by provider."""
    detectors = list(detectors)
    return [one.score(book.history(peer), now_ms) for peer in book.peers() for one in detectors]
