"""Identities that must be refused, each for one reason; and what the refusal says."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key
from quiver.quic import certificate
from quiver.quic.certificate import EXTENSION_OID, SIGNATURE_PREFIX, Identity
from tests.unit.quic.pair import UTC_MS, identity

KEYS = KeyPair(b"w" * 32)
DAY = datetime.timedelta(days=1)
TODAY = datetime.datetime.fromtimestamp(UTC_MS / 1000, datetime.UTC)


def build(*, begins=-DAY, ends=DAY, has_extension=True, strange=False, signer=None):
    """A certificate by hand that is right but for what is asked."""
    key = ec.derive_private_key(77, ec.SECP256R1())
    signature = KEYS.sign(SIGNATURE_PREFIX + certificate._spki(key.public_key()))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(TODAY + begins)
        .not_valid_after(TODAY + ends)
    )
    if has_extension:
        value = certificate._der_pair(encode_public_key(KEYS.public_key), signature)
        builder = builder.add_extension(x509.UnrecognizedExtension(EXTENSION_OID, value), critical=False)
    if strange:
        oid = x509.ObjectIdentifier("1.2.3.4")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\x05\x00"), critical=True)
    return Identity(certificate=builder.sign(signer or key, hashes.SHA256()), private_key=key)


RIGHT = build()
WRONG = {
    "expired": (build(begins=-2 * DAY, ends=-DAY), "valid"),
    "not yet valid": (build(begins=DAY, ends=2 * DAY), "valid"),
    "no extension": (build(has_extension=False), "no libp2p extension"),
    "unknown critical extension": (build(strange=True), r"1\.2\.3\.4"),
    "signed by another key": (build(signer=ec.derive_private_key(78, ec.SECP256R1())), "its own key"),
    "bad host signature": (identity(7, sign=KeyPair(b"f" * 32).sign), "host key's signature"),
}
