"""Signed evidence: any changed field breaks the signature, and a line read back is what was written."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import BadSignature, MalformedMessage
from quiver.identity.signing import EVIDENCE_TAG, evidence_digest
from quiver.receipts.evidence import read_line, sign_evidence, verify_evidence, write_line
from quiver.values.evidence import Evidence, SignedEvidence
from sim.signer import SimSigner, SimVerifier
from tests.unit.receipts.histories import drive

WITNESS = SimSigner(1, "aggregator", mode="real")
VERIFIER = SimVerifier(mode="real")
EVIDENCE = Evidence(
    peer=SimSigner(1, "provider", mode="real").peer_id, detector="speed", score=1.5, threshold=1.25,
    reasons=("twice", "as fast"), since_ms=1_700_000_000_000, until_ms=1_700_000_060_000,
)  # fmt: skip


@pytest.fixture(scope="module")
def signed():
    return drive(sign_evidence(WITNESS, EVIDENCE))


def test_the_signed_bytes_are_those_of_the_specification():
    import hashlib
    import struct

    def sha(data):
        return hashlib.sha256(data).digest()

    reasons = b"\0\0\0\x05twice\0\0\0\x07as fast"
    expected = sha(
        b"QUIVer/evidence/v1" + sha(EVIDENCE.peer) + sha(b"speed") + struct.pack(">dd", 1.5, 1.25)
        + struct.pack(">QQ", 1_700_000_000_000, 1_700_000_060_000) + sha(reasons) + WITNESS.public_key
    )  # fmt: skip
    assert EVIDENCE_TAG == b"QUIVer/evidence/v1" and evidence_digest(EVIDENCE, WITNESS.public_key) == expected


def test_what_was_signed_verifies(signed):
    drive(verify_evidence(VERIFIER, signed))


@pytest.mark.parametrize(
    "changes",
    [{"peer": WITNESS.peer_id}, {"detector": "overlap"}, {"score": 1.6}, {"threshold": 1.2}, {"reasons": ("twiceas", " fast")},
     {"reasons": ("twice",)}, {"since_ms": 1}, {"until_ms": 1}],
    ids=str,
)  # fmt: skip
def test_any_other_evidence_is_not_what_was_signed(signed, changes):
    other = msgspec.structs.replace(signed, evidence=msgspec.structs.replace(EVIDENCE, **changes))
    with pytest.raises(BadSignature):
        drive(verify_evidence(VERIFIER, other))


@pytest.mark.parametrize(
    "changes", [{"witness": SimSigner(1, "other", mode="real").public_key}, {"witness": b""}, {"signature": bytes(63)}]
)
def test_another_witness_did_not_sign_it(signed, changes):
    with pytest.raises(BadSignature):
        drive(verify_evidence(VERIFIER, msgspec.structs.replace(signed, **changes)))


def test_a_time_beyond_its_place_is_no_evidence():
    with pytest.raises(MalformedMessage):
        evidence_digest(msgspec.structs.replace(EVIDENCE, since_ms=-1), WITNESS.public_key)


def test_a_line_comes_back_as_it_was(signed):
    line = write_line(signed)
    assert b"\n" not in line and isinstance(read_line(line), SignedEvidence) and read_line(line) == signed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: b"", lambda line: line[:-1], lambda line: line.replace(b"true", b"false"),
        lambda line: line.replace(b'"score"', b'"sccre"'), lambda line: line.replace(b'"witness":"', b'"witness":"zz'),
        lambda line: line.replace(b'"peer":"', b'"peer":"0'), lambda line: line + b" " * 20_000,
        lambda line: line.replace(b"{", b'{"more":1,', 1),
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_refused(signed, spoil):
    with pytest.raises(MalformedMessage):
        read_line(spoil(write_line(signed)))
