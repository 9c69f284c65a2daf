"""What a provider has on sale, and where others look for it."""

from __future__ import annotations

import hashlib

import msgspec

from quiver.ids import ModelId
from quiver.provider.pricing import Price
from quiver.values.backend import InstalledModel

# Multihash code and length of SHA-256.
MULTIHASH_SHA256 = b"\x12\x20"


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model on sale."""

    installed: InstalledModel
    price: Price
    prefill_tps: float
    decode_tps: float


def content_key(model: ModelId) -> bytes:
    """DHT key under which providers of a model are found: a sha2-256 multihash, because js-libp2p takes no other key."""
    return MULTIHASH_SHA256 + hashlib.sha256(model).digest()
