"""The published key pairs of libp2p's specification, and how each type signs."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

VECTORS = json.loads((Path(__file__).parents[2] / "goldens" / "libp2p_keys.json").read_text())["keys"]
KINDS = sorted(VECTORS)


def host_key(kind: str) -> bytes:
    """PublicKey protobuf."""
    return bytes.fromhex(VECTORS[kind]["public"])


def load_private(kind: str):
    """The private key of the same pair (libp2p specs, peer-ids: how keys are encoded)."""
    raw = bytes.fromhex(VECTORS[kind]["private"])
    data = raw[4:] if raw[3] < 0x80 else raw[5:]
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(data[:32])
    if kind == "secp256k1":
        return ec.derive_private_key(int.from_bytes(data, "big"), ec.SECP256K1())
    return serialization.load_der_private_key(data, password=None)


def sign(kind: str, message: bytes) -> bytes:
    """As libp2p signs with this type of key."""
    key = load_private(kind)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(message, ec.ECDSA(hashes.SHA256()))
