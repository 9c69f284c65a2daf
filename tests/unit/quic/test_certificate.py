"""The libp2p certificate: the specification's vectors, our own, and what must be refused."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import PeerError
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key, peer_id_text
from quiver.quic import certificate
from quiver.quic.certificate import EXTENSION_OID, BadCertificate, CertificateKey
from tests.examples import examples

UTC_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
KEYS = KeyPair(b"\x01" * 32)
VECTORS = json.loads((Path(__file__).parents[2] / "goldens" / "libp2p_tls.json").read_text())["certificates"]


def make(**changes):
    arguments = {"public_key": KEYS.public_key, "sign": KEYS.sign, "entropy": b"e" * 32, "utc_ms": UTC_MS} | changes
    return certificate.make(**arguments)


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_the_vectors_of_the_specification(name):
    shown = x509.load_der_x509_certificate(bytes.fromhex(VECTORS[name]["hex"]))
    if VECTORS[name]["peer_id"] is None:
        with pytest.raises(BadCertificate, match="host key"):
            certificate.verify(shown, UTC_MS)
    else:
        assert peer_id_text(certificate.verify(shown, UTC_MS)) == VECTORS[name]["peer_id"]


@pytest.mark.parametrize("key", CertificateKey)
def test_what_we_make_proves_our_peer_id_and_repeats_itself(key):
    identity = make(key=key)
    assert certificate.verify(identity.certificate, UTC_MS) == KEYS.peer_id
    assert identity.certificate == make(key=key).certificate
    assert identity.certificate != make(key=key, entropy=b"f" * 32).certificate


def test_the_libp2p_extension_is_the_only_one():
    # @libp2p/tls reads extensions[0] and nothing else.
    assert [extension.oid for extension in make().certificate.extensions] == [EXTENSION_OID]


def test_the_host_key_is_not_the_certificate_key_and_nothing_prints_it():
    identity = make(key=CertificateKey.ED25519)
    assert identity.certificate.public_key().public_bytes_raw() != KEYS.public_key
    assert repr(identity) == "Identity(...)"


def test_dates_hold_from_an_hour_before_for_a_century():
    shown = make().certificate
    assert certificate.verify(shown, UTC_MS - HOUR_MS) == KEYS.peer_id
    for at in (UTC_MS - HOUR_MS - 1000, UTC_MS + 100 * 365 * 24 * HOUR_MS + 1000):
        with pytest.raises(BadCertificate, match="valid"):
            certificate.verify(shown, at)


def build(*, extensions=None, signer=None, key=None):
    """A certificate by hand; by default a right one."""
    key = key or ec.derive_private_key(7, ec.SECP256R1())
    when = datetime.datetime(2023, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(when)
        .not_valid_after(when + datetime.timedelta(days=3650))
    )
    for oid, value, critical in extensions if extensions is not None else [(EXTENSION_OID, right_extension(key), True)]:
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=critical)
    return builder.sign(signer or key, hashes.SHA256())


def right_extension(key):
    return extension_value(
        encode_public_key(KEYS.public_key), KEYS.sign(b"libp2p-tls-handshake:" + certificate._spki(key.public_key()))
    )


def extension_value(first, second):
    """SEQUENCE of two OCTET STRINGs, all shorter than 128 bytes."""
    body = bytes([0x04, len(first)]) + first + bytes([0x04, len(second)]) + second
    return bytes([0x30, len(body)]) + body


def test_a_critical_libp2p_extension_is_fine():
    assert certificate.verify(build(), UTC_MS) == KEYS.peer_id


def test_a_certificate_signed_by_another_key_is_refused():
    with pytest.raises(BadCertificate, match="own key"):
        certificate.verify(build(signer=ec.derive_private_key(8, ec.SECP256R1())), UTC_MS)


def test_no_extension_is_refused():
    with pytest.raises(BadCertificate, match="no libp2p extension"):
        certificate.verify(build(extensions=[]), UTC_MS)


def test_an_unknown_critical_extension_is_refused_and_a_plain_one_ignored():
    key = ec.derive_private_key(7, ec.SECP256R1())
    strange = x509.ObjectIdentifier("1.2.3.4")
    right = (EXTENSION_OID, right_extension(key), False)
    assert certificate.verify(build(extensions=[right, (strange, b"\x05\x00", False)]), UTC_MS) == KEYS.peer_id
    with pytest.raises(BadCertificate, match=r"1\.2\.3\.4"):
        certificate.verify(build(extensions=[right, (strange, b"\x05\x00", True)]), UTC_MS)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x04\x00",  # not a SEQUENCE
        b"\x30\x05\x04\x01",  # cut
        extension_value(b"", b""),  # no key
        extension_value(b"\x08\x01\x12\x20" + b"k" * 31, b"s" * 64),  # key of another length than it says
        extension_value(b"\x08\x01\x12\x1f" + b"k" * 31, b"s" * 64),  # a short Ed25519 key
        extension_value(b"\x08\x09\x12\x20" + b"k" * 32, b"s" * 64),  # unknown key type
        extension_value(encode_public_key(KEYS.public_key), b"s" * 64),  # bad signature
        extension_value(encode_public_key(KEYS.public_key), b"") + b"\x00",  # bytes after the end
    ],
)
def test_a_broken_extension_is_refused(value):
    with pytest.raises(BadCertificate):
        certificate.verify(build(extensions=[(EXTENSION_OID, value, False)]), UTC_MS)


@settings(max_examples=examples(50), deadline=None)
@given(value=st.binary(max_size=120))
def test_any_extension_bytes_are_judged_without_another_error(value):
    with pytest.raises(PeerError):
        certificate.verify(build(extensions=[(EXTENSION_OID, value, False)]), UTC_MS)
