"""Evidence on its way: signed by who saw it, one JSON object a line (docs/protocol.md, Evidence), checked by who reads it."""

from __future__ import annotations

import msgspec

from quiver.errors import BadSignature, MalformedMessage
from quiver.identity.keys import SIGNATURE_BYTES
from quiver.identity.signing import evidence_digest
from quiver.ids import DIGEST_BYTES, PeerId, base58_decode, base58_encode
from quiver.ports import Signer, Verifier
from quiver.values.evidence import Evidence, SignedEvidence

# A line of a file of somebody else is read no further.
LINE_BYTES_MAX = 16 * 1024


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    peer: str
    detector: str
    score: float
    threshold: float
    suspicious: bool
    reasons: tuple[str, ...]
    since_ms: int
    until_ms: int
    witness: str
    signature: str


_ENCODE = msgspec.json.Encoder().encode
_LINE = msgspec.json.Decoder(_Line)


async def sign_evidence(signer: Signer, evidence: Evidence) -> SignedEvidence:
    """Ours."""
    signature = await signer.sign(evidence_digest(evidence, signer.public_key))
    return SignedEvidence(evidence=evidence, witness=signer.public_key, signature=signature)


async def verify_evidence(verifier: Verifier, signed: SignedEvidence) -> None:
    """`BadSignature` unless its witness signed it."""
    if len(signed.witness) != DIGEST_BYTES or len(signed.signature) != SIGNATURE_BYTES:
        raise BadSignature("evidence_signature: a key or signature of another width")
    digest = evidence_digest(signed.evidence, signed.witness)
    if not await verifier.verify(signed.witness, digest, signed.signature):
        raise BadSignature("evidence_signature: the evidence is not signed by its witness")


def write_line(signed: SignedEvidence) -> bytes:
    """Without the line's end. `suspicious` is for readers: it follows from score and threshold."""
    evidence = signed.evidence
    return _ENCODE(
        _Line(
            peer=base58_encode(evidence.peer), detector=evidence.detector, score=evidence.score,
            threshold=evidence.threshold, suspicious=evidence.is_suspicious, reasons=evidence.reasons,
            since_ms=evidence.since_ms, until_ms=evidence.until_ms, witness=signed.witness.hex(),
            signature=signed.signature.hex(),
        )
    )  # fmt: skip


def read_line(data: bytes) -> SignedEvidence:
    """Inverse of `write_line`; `MalformedMessage` says what is wrong. Nothing is verified yet."""
    if len(data) > LINE_BYTES_MAX:
        raise MalformedMessage(f"evidence: a line of {len(data)} bytes, at most {LINE_BYTES_MAX} are read")
    try:
        line = _LINE.decode(data)
        evidence = Evidence(
            peer=PeerId(base58_decode(line.peer)), detector=line.detector, score=line.score, threshold=line.threshold,
            reasons=line.reasons, since_ms=line.since_ms, until_ms=line.until_ms,
        )  # fmt: skip
        signed = SignedEvidence(
            evidence=evidence, witness=bytes.fromhex(line.witness), signature=bytes.fromhex(line.signature)
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedMessage(f"evidence: {error}") from error
    if evidence.is_suspicious != line.suspicious:
        raise MalformedMessage("evidence: `suspicious` contradicts score and threshold")
    return signed
