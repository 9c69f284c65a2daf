"""The aggregator looks at what it accepted: once an epoch every provider is judged, and what is suspicious is signed and kept.

Rules of this file: it awaits and moves values; what is suspicious is the detectors' to say. Nothing is refused or slashed for
it: evidence is for gateways to weigh. After a restart the book is read again from the receipts of the newest epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from quiver.aggregator.window import RECEIPTS, KeptReceipt, epoch_key
from quiver.errors import PeerError, QuiverError
from quiver.identity.peer_id import compute_peer_id
from quiver.identity.signing import offer_bytes
from quiver.ids import PeerId
from quiver.ports import Store
from quiver.receipts.evidence import sign_evidence
from quiver.receipts.fraud.detector import Detector
from quiver.receipts.fraud.registry import DETECTORS
from quiver.receipts.history import Book
from quiver.runtime import Nursery, Runtime
from quiver.trace import EvidenceRecorded
from quiver.values.evidence import Evidence, SignedEvidence
from quiver.values.offer import OfferAnswer, OfferQuestion, SignedOffer
from quiver.values.receipt import SignedReceipt
from quiver.wire.protocols import OFFER

EVIDENCE = "aggregator_evidence"
# Providers asked for their offers at once.
QUESTIONS_MAX = 16
# Read back at a start: receipts of the open epoch and the one before, as far as this many.
EPOCHS_REMEMBERED, RECEIPTS_REMEMBERED_MAX = 2, 100_000
# Evidence that nothing has renewed for this long is dropped.
EVIDENCE_KEPT_MS = 30 * 24 * 3_600_000

_ENCODE = msgspec.msgpack.Encoder().encode
_SIGNED = msgspec.msgpack.Decoder(SignedEvidence)
_KEPT = msgspec.msgpack.Decoder(KeptReceipt)


class FraudDesk:
    """Tell it what was accepted and refused; `run` beside the service."""

    def __init__(self, runtime: Runtime, detectors: Iterable[Detector] | None = None) -> None:
        self._runtime = runtime
        self.detectors = tuple(make() for make in DETECTORS.values()) if detectors is None else tuple(detectors)
        self.book = Book()
        self._new: dict[PeerId, None] = {}
        "Providers with receipts since they were judged last."
        if self.detectors:
            self._remember()

    def _remember(self) -> None:
        runtime = self._runtime
        newest = runtime.clock.utc_ms() // runtime.params.epoch_ms
        for epoch in range(max(0, newest - EPOCHS_REMEMBERED + 1), newest + 1):
            for _, row in islice(runtime.store.scan(RECEIPTS, epoch_key(epoch)), RECEIPTS_REMEMBERED_MAX):
                self.on_receipts((_KEPT.decode(row).receipt,))

    def on_receipts(self, receipts: Sequence[SignedReceipt]) -> None:
        """Receipts of one provider that were new and accepted."""
        if not self.detectors:
            return
        peer = self.book.on_receipts(receipts, now_ms=self._runtime.clock.utc_ms())
        if peer is not None:
            self._new[peer] = None

    def on_refused(self, peer: PeerId, error: PeerError) -> None:
        """A batch of `peer` was not taken. Only a fork is proof: by then all its signatures were verified."""
        if str(error).startswith("fork:"):
            self.book.on_fork(peer, str(error))
            self._new[peer] = None

    async def run(self) -> None:
        """Judge once an epoch, for ever; without detectors there is nothing to do."""
        while self.detectors:
            await self._runtime.clock.sleep(self._runtime.params.epoch_ms / 1000)
            await self.judge()

    async def judge(self) -> list[SignedEvidence]:
        """Look at every provider with something new; sign and keep what is suspicious."""
        runtime, peers = self._runtime, sorted(self._new)
        self._new.clear()
        await self._learn_offers(peers)
        now_ms = runtime.clock.utc_ms()
        signed = []
        for peer in peers:
            found = [one.score(self.book.history(peer), now_ms) for one in self.detectors]
            signed += [await sign_evidence(runtime.signer, one) for one in found if one.is_suspicious]
            # A look costs milliseconds: receipts of others are answered in between.
            await runtime.clock.sleep(0.0)
        if signed:
            old = [one for one in load_evidence(runtime.store) if one.evidence.until_ms < now_ms - EVIDENCE_KEPT_MS]
            await runtime.store.commit(
                [(EVIDENCE, _key(one.evidence), None) for one in old]
                + [(EVIDENCE, _key(one.evidence), _ENCODE(one)) for one in signed]
            )
        for one in signed:
            evidence = one.evidence
            runtime.trace.emit(
                EvidenceRecorded(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=evidence.peer, kind=evidence.detector,
                    detail=f"{evidence.score:.3g} > {evidence.threshold:g}: {'; '.join(evidence.reasons)}",
                )
            )  # fmt: skip
        return signed

    async def _learn_offers(self, peers: Sequence[PeerId]) -> None:
        """Ask for offers, a few at a time; a silent provider is judged without."""
        waiting = list(reversed(peers))

        async def worker() -> None:
            while waiting:
                await self._ask(waiting.pop())

        async with Nursery() as nursery:
            for _ in range(min(QUESTIONS_MAX, len(waiting))):
                nursery.start(worker())

    async def _ask(self, peer: PeerId) -> None:
        runtime = self._runtime
        try:
            answer = await runtime.transport.rpc(peer, OFFER, OfferQuestion(), timeout_s=runtime.params.rpc_timeout_s)
            if isinstance(answer, OfferAnswer):
                for signed in answer.offers:
                    await self._take(peer, signed)
        except QuiverError:
            return

    async def _take(self, peer: PeerId, signed: SignedOffer) -> None:
        offer = signed.offer
        if offer.provider == peer == compute_peer_id(offer.public_key) and await self._runtime.verifier.verify(
            offer.public_key, offer_bytes(offer), signed.signature
        ):
            self.book.on_offer(offer)


def _key(evidence: Evidence) -> bytes:
    """The newest of each detector about each provider is kept."""
    return evidence.detector.encode() + b"\0" + evidence.peer


def load_evidence(store: Store) -> Iterator[SignedEvidence]:
    """What was kept, by detector and provider."""
    return (_SIGNED.decode(row) for _, row in store.scan(EVIDENCE))
