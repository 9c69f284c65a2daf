"""A gateway looks at what it paid for: its own book, judged by detectors, becomes reputation, and reputation decides who is asked.

Rules of this file: it awaits and moves values; what is suspicious is the detectors' to say, what follows is `selection.reputation`'s.
Each step is in the trace: a new suspicion, what was imported or refused, whose standing changed, who was passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from quiver.errors import PeerError
from quiver.identity.peer_id import compute_peer_id
from quiver.ids import ModelId, PeerId, RequestId
from quiver.receipts.evidence import read_line, verify_evidence
from quiver.receipts.fraud.detector import Detector
from quiver.receipts.history import Book
from quiver.runtime import Runtime
from quiver.selection.candidates import CandidateTable
from quiver.selection.reputation import DISTRUST_MAX, Reputation
from quiver.trace import EvidenceImported, EvidenceRecorded, EvidenceRefused, ProvidersPassedOver, TrustChanged
from quiver.values.decision import Candidate
from quiver.values.evidence import Evidence, SignedEvidence


class Suspicion:
    """Call `run` as a task; `import_lines` with what others signed; `sift` whom to ask."""

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
        self._told: dict[PeerId, float] = {}
        "Distrust of each peer as the trace knows it; 0 is left out."

    # ---- own evidence

    async def run(self) -> None:
        """Judge as often as providers are looked for."""
        while True:
            await self._runtime.clock.sleep(self._runtime.params.discovery_refresh_s)
            await self.judge()

    async def judge(self) -> None:
        """Every detector looks at every provider we paid."""
        clock = self._runtime.clock
        self._learn_offers()
        for peer in self._book.peers():
            for detector in self._detectors:
                evidence = detector.score(self._book.history(peer), clock.utc_ms())
                if self._reputation.on_own(evidence):
                    self._suspected(evidence)
            # A look costs milliseconds: clients are answered in between.
            await clock.sleep(0.0)
        self._tell()

    def _learn_offers(self) -> None:
        now = self._runtime.clock.now()
        for peer in self._book.peers():
            for model in self._models:
                if (offer := self._table.offer(peer, model, now)) is not None:
                    self._book.on_offer(offer)

    # ---- that of others

    async def import_lines(self, lines: Iterable[bytes]) -> int:
        """In place of what was imported before: JSON lines of evidence. How many counted; each other one is refused by name."""
        counted = []
        for number, line in enumerate(lines, 1):
            try:
                counted.append(await self._check(read_line(line)))
            except PeerError as error:
                self._refused(number, error)
        self._reputation.forget_imported()
        # Of two looks of one detector the newer counts, wherever it stands.
        for signed in sorted(counted, key=lambda one: one.evidence.until_ms):
            self._reputation.on_imported(signed)
            self._imported(signed)
        self._tell()
        return len(counted)

    async def _check(self, signed: SignedEvidence) -> SignedEvidence:
        runtime = self._runtime
        self._reputation.check_imported(
            signed, now_ms=runtime.clock.utc_ms(), clock_skew_ms_max=runtime.params.clock_skew_ms_max
        )
        await verify_evidence(runtime.verifier, signed)
        return signed

    # ---- what follows

    def sift(self, request_id: RequestId, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Without those that are distrusted; all of them if nobody would be left."""
        runtime = self._runtime
        kept = self._reputation.trusted(candidates, runtime.clock.utc_ms())
        if len(kept) < len(candidates):
            peers = {one.peer for one in kept}
            runtime.trace.emit(
                ProvidersPassedOver(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, request_id=request_id,
                    peers=tuple(sorted(one.peer for one in candidates if one.peer not in peers)),
                )
            )  # fmt: skip
        return kept

    # ---- the trace

    def _tell(self) -> None:
        """Whose standing changed, old age of evidence included."""
        runtime, now_ms = self._runtime, self._runtime.clock.utc_ms()
        before, self._told = self._told, {}
        for peer in sorted({*before, *self._reputation.peers()}):
            distrust = self._reputation.distrust(peer, now_ms)
            if distrust:
                self._told[peer] = distrust
            if distrust != before.get(peer, 0.0):
                runtime.trace.emit(
                    TrustChanged(
                        at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=peer, distrust=distrust,
                        passed_over=distrust >= DISTRUST_MAX,
                    )
                )  # fmt: skip

    def _suspected(self, evidence: Evidence) -> None:
        runtime = self._runtime
        runtime.trace.emit(
            EvidenceRecorded(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=evidence.peer, kind=evidence.detector,
                detail=f"{evidence.score:.3g} > {evidence.threshold:g}: {'; '.join(evidence.reasons)}",
            )
        )  # fmt: skip

    def _imported(self, signed: SignedEvidence) -> None:
        runtime = self._runtime
        runtime.trace.emit(
            EvidenceImported(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=signed.evidence.peer,
                witness=compute_peer_id(signed.witness), kind=signed.evidence.detector,
            )
        )  # fmt: skip

    def _refused(self, number: int, error: PeerError) -> None:
        runtime = self._runtime
        runtime.trace.emit(
            EvidenceRefused(at_s=runtime.clock.now(), node=runtime.signer.peer_id, line=number, reason=str(error))
        )
