"""Host keys of other libp2p nodes: the PublicKey protobuf of all four key types, and their signatures (libp2p specs, peer-ids).

Our own nodes are Ed25519 (`keys`); strangers may bring any of the four. Rules of this file: a key protobuf has one form only,
because the peer id is its hash: minimal varints, both fields, in order, nothing after them.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import nacl.bindings
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from quiver.errors import MalformedMessage
from quiver.identity import keys

# go-libp2p's bounds (core/crypto): smaller RSA keys are forgeable, larger ones make a check slow for whoever verifies.
RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
# An RSA key of 8192 bits takes 1062 bytes of DER.
KEY_BYTES_MAX = 2048

_EcOrRsaKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class HostKeyType(IntEnum):
    """`KeyType` of libp2p's PublicKey protobuf."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


def encode_host_key(kind: HostKeyType, data: bytes) -> bytes:
    """PublicKey protobuf: tag 1 type, tag 2 data. `data` is 32 raw bytes (Ed25519), a compressed point (secp256k1), else DER."""
    if len(data) > KEY_BYTES_MAX:
        raise MalformedMessage(f"a host key of {len(data)} bytes; at most {KEY_BYTES_MAX} are read")
    length = bytes((len(data),)) if len(data) < 0x80 else bytes((len(data) & 0x7F | 0x80, len(data) >> 7))
    return bytes((0x08, kind, 0x12)) + length + data


def parse_host_key(protobuf: bytes) -> tuple[HostKeyType, bytes]:
    """(type, key bytes) of a PublicKey protobuf; `MalformedMessage` for any other form of it, or a key of another size."""
    if len(protobuf) < 4 or protobuf[0] != 0x08 or protobuf[1] > max(HostKeyType) or protobuf[2] != 0x12:
        raise MalformedMessage("the host key is not a PublicKey protobuf")
    start = 4 if protobuf[3] < 0x80 else 5
    kind, data = HostKeyType(protobuf[1]), protobuf[start:]
    if len(data) > KEY_BYTES_MAX or encode_host_key(kind, data) != protobuf:
        raise MalformedMessage("the host key's protobuf has another length than it says")
    if kind is HostKeyType.ED25519 and len(data) != nacl.bindings.crypto_sign_PUBLICKEYBYTES:
        raise MalformedMessage(f"an Ed25519 host key has 32 bytes, not {len(data)}")
    return kind, data


def verify_host_signature(protobuf: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519 plain; RSA PKCS#1 v1.5, secp256k1 and ECDSA with SHA-256, the latter two in DER. False for anything else.

    `MalformedMessage` when `protobuf` holds no key of the type it names.
    """
    kind, data = parse_host_key(protobuf)
    if kind is HostKeyType.ED25519:
        return keys.verify(data, message, signature)
    key = _load(kind, data)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


# Reading a DER key costs more than checking a signature with it, and a peer shows the same key again and again.
@lru_cache(maxsize=1024)
def _load(kind: HostKeyType, data: bytes) -> _EcOrRsaKey:
    try:
        if kind is HostKeyType.SECP256K1:
            if len(data) != 33:
                raise ValueError(f"a secp256k1 host key is a compressed point of 33 bytes, not {len(data)}")
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)
        key = serialization.load_der_public_key(data)
        if kind is HostKeyType.ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            return key
        if kind is HostKeyType.RSA and isinstance(key, rsa.RSAPublicKey):
            if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
                raise ValueError(f"{key.key_size} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are taken")
            return key
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedMessage(f"the {kind.name} host key cannot be used: {error}") from error
    raise MalformedMessage(f"the host key is not the {kind.name} key it says it is")
