"""Identifiers: what each is made of, and how it is shown to people."""

from __future__ import annotations

import hashlib
from typing import NewType

PeerId = NewType("PeerId", bytes)
"""libp2p peer id: the multihash bytes; 38 bytes for an Ed25519 key (libp2p specs, peer-ids)."""

RequestId = NewType("RequestId", bytes)
"""16 bytes, unique for each client's request."""

ModelId = NewType("ModelId", bytes)
"""32 bytes: SHA-256 content digest of the model."""

ChannelId = NewType("ChannelId", bytes)
"""32 bytes; see `compute_channel_id`."""

Address = NewType("Address", bytes)
"""20 bytes: an EVM account."""

REQUEST_ID_BYTES = 16
DIGEST_BYTES = 32
ADDRESS_BYTES = 20

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_INDEX = {letter: value for value, letter in enumerate(_BASE58)}


def base58_encode(data: bytes) -> str:
    """base58btc: each leading zero byte becomes '1'."""
    number, letters = int.from_bytes(data, "big"), []
    while number:
        number, digit = divmod(number, 58)
        letters.append(_BASE58[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(letters))


def base58_decode(text: str) -> bytes:
    """Inverse of `base58_encode`; ValueError on a letter outside the alphabet."""
    number = 0
    for letter in text:
        if letter not in _BASE58_INDEX:
            raise ValueError(f"{letter!r} is not a base58btc letter")
        number = number * 58 + _BASE58_INDEX[letter]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def short(identifier: bytes) -> str:
    """Last 8 letters of the base58 form: for people, never for machines."""
    return base58_encode(identifier)[-8:]


def model_id_from_digest(digest: str) -> ModelId:
    """`sha256:<64 hex>` or `<64 hex>` -> 32 bytes; ValueError otherwise."""
    raw = bytes.fromhex(digest.removeprefix("sha256:"))
    if len(raw) != DIGEST_BYTES:
        raise ValueError(f"a model digest has 64 hex digits, {digest!r} has {2 * len(raw)}")
    return ModelId(raw)


def compute_domain(tag: bytes, chain_id: int, contract: Address) -> bytes:
    """SHA-256(tag | chain id as 32 bytes | contract): binds a signature to one contract on one chain."""
    return hashlib.sha256(tag + chain_id.to_bytes(32, "big") + contract).digest()


def compute_channel_id(ack_domain: bytes, payer: Address, provider: Address, nonce: int) -> ChannelId:
    """SHA-256(D | payer | provider | nonce as 8 bytes)."""
    return ChannelId(hashlib.sha256(ack_domain + payer + provider + nonce.to_bytes(8, "big")).digest())
