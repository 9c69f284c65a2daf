"""The libp2p TLS certificate: a throw-away key, self-signed, that carries the host key's signature (libp2p specs, tls).

Rules of this file: dates and entropy are arguments; a certificate of another peer is refused with `BadCertificate`.
Our certificate has exactly one extension, because @libp2p/tls reads only the first.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from quiver.errors import MalformedMessage, PeerError, WireCode
from quiver.identity.host_key import verify_host_signature
from quiver.identity.peer_id import compute_host_peer_id, encode_public_key
from quiver.ids import PeerId

EXTENSION_OID = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
SIGNATURE_PREFIX = b"libp2p-tls-handshake:"
# An hour of clock difference backwards, a century forwards, as go-libp2p does.
VALID_BEFORE_MS = 3_600_000
VALID_AFTER_MS = 100 * 365 * 86_400_000
PRIVATE_KEY_ENTROPY_BYTES = 32
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class BadCertificate(PeerError):
    """A certificate that does not prove who the peer is."""

    wire_code = WireCode.BAD_SIGNATURE


class CertificateKey(StrEnum):
    """Kind of the throw-away key. P-256 is what every libp2p accepts; Ed25519 signatures all have one length."""

    P256 = "p256"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What TLS shows: the certificate and its throw-away key. Never printed."""

    certificate: x509.Certificate
    private_key: PrivateKey

    def __repr__(self) -> str:
        return "Identity(...)"


def make(
    *,
    public_key: bytes,
    sign: Callable[[bytes], bytes],
    entropy: bytes,
    utc_ms: int,
    key: CertificateKey = CertificateKey.P256,
) -> Identity:
    """A certificate for the Ed25519 host key `public_key`; `entropy` is 32 secret random bytes, the same ones give the same bytes."""
    if len(entropy) != PRIVATE_KEY_ENTROPY_BYTES:
        raise ValueError(f"a certificate key needs {PRIVATE_KEY_ENTROPY_BYTES} bytes of entropy, not {len(entropy)}")
    private_key = _private_key(entropy, key)
    spki = _spki(private_key.public_key())
    extension = _der_pair(encode_public_key(public_key), sign(SIGNATURE_PREFIX + spki))
    serial = int.from_bytes(hashlib.sha256(b"QUIVer/certificate-serial/v1" + entropy).digest()[:8], "big") >> 1 | 1
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(serial)
        .not_valid_before(_EPOCH + datetime.timedelta(milliseconds=max(0, utc_ms - VALID_BEFORE_MS)))
        .not_valid_after(_EPOCH + datetime.timedelta(milliseconds=utc_ms + VALID_AFTER_MS))
        .add_extension(x509.UnrecognizedExtension(EXTENSION_OID, extension), critical=False)
    )
    if key is CertificateKey.P256:
        certificate = builder.sign(private_key, hashes.SHA256(), ecdsa_deterministic=True)
    else:
        certificate = builder.sign(private_key, None)
    return Identity(certificate=certificate, private_key=private_key)


def verify(certificate: x509.Certificate, utc_ms: int) -> PeerId:
    """The peer id the certificate proves, or `BadCertificate`: dates, self-signature, extension, host signature, in this order."""
    at = _EPOCH + datetime.timedelta(milliseconds=utc_ms)
    try:
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as error:
        raise BadCertificate(f"the certificate's dates cannot be read: {error}") from error
    if not first <= at <= last:
        raise BadCertificate(f"certificate valid {first} to {last}, not at {at}")
    try:
        certificate_key = certificate.public_key()
        _check_signature(
            certificate_key,
            certificate.signature,
            certificate.tbs_certificate_bytes,
            certificate.signature_hash_algorithm,
        )
        extensions = list(certificate.extensions)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise BadCertificate("the certificate is not signed by its own key, or cannot be read") from error
    ours = [extension for extension in extensions if extension.oid == EXTENSION_OID]
    strange = [
        e.oid.dotted_string
        for e in extensions
        if e.critical and isinstance(e.value, x509.UnrecognizedExtension) and e not in ours
    ]
    if strange:
        raise BadCertificate(f"critical extension {strange[0]} is not known here")
    if len(ours) != 1 or not isinstance(ours[0].value, x509.UnrecognizedExtension):
        raise BadCertificate("the certificate has no libp2p extension")
    host_key, signature = _parse_der_pair(ours[0].value.value)
    message = SIGNATURE_PREFIX + _spki(certificate_key)
    try:
        is_signed = verify_host_signature(host_key, message, signature)
    except MalformedMessage as error:
        raise BadCertificate(str(error)) from error
    if not is_signed:
        raise BadCertificate("the host key's signature in the certificate does not verify")
    return compute_host_peer_id(host_key)


def _private_key(entropy: bytes, key: CertificateKey) -> PrivateKey:
    if key is CertificateKey.ED25519:
        return ed25519.Ed25519PrivateKey.from_private_bytes(entropy)
    # 1 .. order - 1; the bias of one reduction of 256 bits is below 2^-32 and the key lives as long as a process.
    return ec.derive_private_key(int.from_bytes(entropy, "big") % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def _spki(public_key: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public_key.public_bytes(serialization.Encoding.DER, form)  # type: ignore[attr-defined,no-any-return]


def _check_signature(key: object, signature: bytes, message: bytes, digest: hashes.HashAlgorithm | None) -> None:
    """Raises `InvalidSignature` (or ValueError for a key we do not know) unless `signature` is `key`'s over `message`."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, message)
    elif isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
        key.verify(signature, message, ec.ECDSA(digest))
    elif isinstance(key, rsa.RSAPublicKey) and digest is not None:
        key.verify(signature, message, padding.PKCS1v15(), digest)
    else:
        raise ValueError(f"no signature check for a {type(key).__name__}")


def _der(tag: int, body: bytes) -> bytes:
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + body


def _der_pair(first: bytes, second: bytes) -> bytes:
    """DER SEQUENCE { OCTET STRING, OCTET STRING }."""
    return _der(0x30, _der(0x04, first) + _der(0x04, second))


def _parse_der(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """(body, rest) of the DER value at the start of `data`."""
    if len(data) < 2 or data[0] != tag:
        raise BadCertificate(f"the libp2p extension is not DER: expected tag {tag:#x}")
    length, start = data[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:start], "big")
    if start > 6 or len(data) < start + length:
        raise BadCertificate("the libp2p extension is cut")
    return data[start : start + length], data[start + length :]


def _parse_der_pair(data: bytes) -> tuple[bytes, bytes]:
    body, rest = _parse_der(data, 0x30)
    first, tail = _parse_der(body, 0x04)
    second, end = _parse_der(tail, 0x04)
    if rest or end:
        raise BadCertificate("the libp2p extension has bytes after its end")
    return first, second
