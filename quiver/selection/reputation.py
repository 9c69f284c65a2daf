"""What a gateway holds against providers: its own evidence, and, capped, that of witnesses it was told to trust.

Rules of this file: no I/O, no clock; imported evidence was verified before. Hearsay alone never keeps a provider from work: it
only makes our own first suspicion enough. Nobody is left out when everybody would be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from quiver.errors import ReceiptMismatch
from quiver.ids import PeerId
from quiver.values.decision import Candidate
from quiver.values.evidence import Evidence, SignedEvidence

DISTRUST_MAX = 1.0
"From here on a provider is passed over. Two of our own detectors reach it, or one and hearsay."
OWN_WEIGHT = 0.6
# One witness counts once, however much it has to say; all of them together stay below one look of our own.
WITNESS_WEIGHT, IMPORTED_MAX = 0.25, 0.5
# About 1 KB each.
PEERS_MAX, EVIDENCE_PER_PEER_MAX = 4096, 32
EVIDENCE_MS_MAX = 24 * 3_600_000
"Older evidence says nothing about today."

# None: ourselves.
_Source = tuple[bytes | None, str]


class Reputation:
    """One gateway's. `witnesses` are Ed25519 keys whose evidence may be imported."""

    def __init__(self, witnesses: Iterable[bytes] = ()) -> None:
        self._witnesses = frozenset(witnesses)
        self._held: OrderedDict[PeerId, OrderedDict[_Source, Evidence]] = OrderedDict()

    def on_own(self, evidence: Evidence) -> bool:
        """A look of our own; one that finds nothing takes back what the same detector found before. Whether it is a new suspicion."""
        is_known = (None, evidence.detector) in self._held.get(evidence.peer, {})
        self._put(None, evidence)
        return evidence.is_suspicious and not is_known

    def check_imported(self, signed: SignedEvidence, *, now_ms: int, clock_skew_ms_max: int) -> None:
        """`ReceiptMismatch` for what can't count here, before its signature is looked at: evidence_foreign, _old or _early."""
        until_ms = signed.evidence.until_ms
        if signed.witness not in self._witnesses:
            raise ReceiptMismatch(f"evidence_foreign: {signed.witness.hex()} is no witness of ours")
        if until_ms < now_ms - EVIDENCE_MS_MAX:
            raise ReceiptMismatch(
                f"evidence_old: its receipts end {(now_ms - until_ms) // 3_600_000} h ago, 24 h count"
            )
        if until_ms > now_ms + clock_skew_ms_max:
            raise ReceiptMismatch(f"evidence_early: its receipts end {until_ms - now_ms} ms ahead of our clock")

    def forget_imported(self) -> None:
        """Take back all hearsay: its file has changed."""
        for peer, held in list(self._held.items()):
            for source in [one for one in held if one[0] is not None]:
                del held[source]
            if not held:
                del self._held[peer]

    def on_imported(self, signed: SignedEvidence) -> bool:
        """Somebody else's, verified; False, and nothing changes, when its witness is not one of ours."""
        if signed.witness not in self._witnesses:
            return False
        self._put(signed.witness, signed.evidence)
        return True

    def peers(self) -> list[PeerId]:
        """Of whom anything is held, in the order of their ids."""
        return sorted(self._held)

    def distrust(self, peer: PeerId, now_ms: int) -> float:
        """0 for a peer nobody suspects."""
        own, witnesses = 0.0, set()
        for (witness, _), evidence in self._held.get(peer, {}).items():
            if evidence.until_ms < now_ms - EVIDENCE_MS_MAX:
                continue
            if witness is None:
                own += OWN_WEIGHT
            else:
                witnesses.add(witness)
        return own + min(IMPORTED_MAX, WITNESS_WEIGHT * len(witnesses))

    def trusted(self, candidates: Sequence[Candidate], now_ms: int) -> Sequence[Candidate]:
        """Without those that are distrusted; all of them if nobody would be left."""
        if not self._held:
            return candidates
        kept = [one for one in candidates if self.distrust(one.peer, now_ms) < DISTRUST_MAX]
        return kept or candidates

    def _put(self, witness: bytes | None, evidence: Evidence) -> None:
        held = self._held.setdefault(evidence.peer, OrderedDict())
        source = (witness, evidence.detector)
        held.pop(source, None)
        if evidence.is_suspicious:
            held[source] = evidence
        if len(held) > EVIDENCE_PER_PEER_MAX:
            # A witness that invents detectors pushes out hearsay, never what we saw ourselves.
            del held[next((one for one in held if one[0] is not None), next(iter(held)))]
        self._held.move_to_end(evidence.peer)
        if not held:
            del self._held[evidence.peer]
        elif len(self._held) > PEERS_MAX:
            self._held.popitem(last=False)
