"""What somebody concludes about a provider from receipts, with its reasons: a number against a threshold, never a verdict."""

from __future__ import annotations

import msgspec

from quiver.ids import PeerId


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One detector's look at one provider. Signed bytes: docs/protocol.md, Evidence."""

    peer: PeerId
    "Whom it is about."
    detector: str
    score: float
    "0 or more; what it measures is the detector's to say."
    threshold: float
    "Above it, the detector calls the provider suspicious."
    reasons: tuple[str, ...] = ()
    "For people, most telling first."
    since_ms: int
    until_ms: int
    "The receipts it rests on were issued between these, utc milliseconds."

    @property
    def is_suspicious(self) -> bool:
        """Beyond the threshold."""
        return self.score > self.threshold


class SignedEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence and the Ed25519 signature of who saw it."""

    evidence: Evidence
    witness: bytes
    "Ed25519 public key of the aggregator or gateway, 32 bytes."
    signature: bytes
