"""A gateway looks at what it paid for: its own book, judged by detectors, becomes reputation.

Rules of this file: it awaits and moves values; what is suspicious is the detectors' to say, what follows is `selection.reputation`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from quiver.errors import BadSignature, MalformedMessage
from quiver.ids import ModelId
from quiver.receipts.evidence import verify_evidence
from quiver.receipts.fraud.detector import Detector
from quiver.receipts.history import Book
from quiver.runtime import Runtime
from quiver.selection.candidates import CandidateTable
from quiver.selection.reputation import Reputation
from quiver.trace import EvidenceRecorded
from quiver.values.evidence import SignedEvidence


class Suspicion:
    """Call `run` as a task; `import_evidence` with what others signed."""

    def __init__(
        self, runtime: Runtime, book: Book, detectors: Sequence[Detector], reputation: Reputation,
        table: CandidateTable, models: Collection[ModelId],
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._book = book
        self._detectors = detectors
        self._reputation = reputation
        self._table = table
        self._models = models

    async def run(self) -> None:
        """Judge as often as providers are looked for."""
        while True:
            await self._runtime.clock.sleep(self._runtime.params.discovery_refresh_s)
            self.judge()

    def judge(self) -> None:
        """Every detector looks at every provider we paid."""
        runtime, now = self._runtime, self._runtime.clock.now()
        for peer in self._book.peers():
            for model in self._models:
                if (offer := self._table.offer(peer, model, now)) is not None:
                    self._book.on_offer(offer)
        now_ms = runtime.clock.utc_ms()
        for peer in self._book.peers():
            for detector in self._detectors:
                evidence = detector.score(self._book.history(peer), now_ms)
                self._reputation.on_own(evidence)
                if evidence.is_suspicious:
                    runtime.trace.emit(
                        EvidenceRecorded(
                            at_s=now, node=runtime.signer.peer_id, peer=peer, kind=evidence.detector,
                            detail=f"{evidence.score:.3g} > {evidence.threshold:g}: {'; '.join(evidence.reasons)}",
                        )
                    )  # fmt: skip

    async def import_evidence(self, found: Sequence[SignedEvidence]) -> int:
        """How many counted: signed by a witness we trust, and validly so."""
        counted = 0
        for signed in found:
            try:
                await verify_evidence(self._runtime.verifier, signed)
            except (BadSignature, MalformedMessage):
                continue
            counted += self._reputation.on_imported(signed)
        return counted
