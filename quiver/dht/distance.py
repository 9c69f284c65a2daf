"""Kademlia's keyspace: SHA-256 of the key bytes as an integer, and XOR as distance.

Source: libp2p kad-dht specification; Maymounkov & Mazieres 2002, 2.1. Nothing here knows of peers or time.
"""

from __future__ import annotations

import functools
import hashlib
import random

KEY_BITS = 256
# Keyspace integers remembered for the whole process; 10^5 of them are about 20 MB. Beyond it, all are forgotten.
KEYS_MAX = 1 << 17
# Refresh keys exist for buckets 0 to 11: deeper ones hold our nearest neighbours, whom a lookup of ourselves finds.
REFRESH_BITS = 12


class Keyspace(dict[bytes, int]):
    """`KEYS[data]` is SHA-256(data) as an integer. A bounded memo: equal data give the same object."""

    def __missing__(self, data: bytes) -> int:
        if len(self) >= KEYS_MAX:
            self.clear()
        key = self[data] = int.from_bytes(hashlib.sha256(data).digest(), "big")
        return key


KEYS = Keyspace()


def compute_distance(one: bytes, two: bytes) -> int:
    """XOR of two keys (peer ids or record keys) in the keyspace."""
    return KEYS[one] ^ KEYS[two]


def compute_common_prefix_length(one: int, two: int) -> int:
    """Leading bits two keyspace integers share, 0 to 256: the number of the bucket of one in the table of the other."""
    return KEY_BITS - (one ^ two).bit_length()


@functools.cache
def _preimages() -> tuple[bytes, ...]:
    """For each prefix of `REFRESH_BITS` bits some bytes whose SHA-256 begins with it; about 40,000 hashes, made once."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < 1 << REFRESH_BITS:
        data = number.to_bytes(4, "big")
        prefix = int.from_bytes(hashlib.sha256(data).digest()[:4], "big") >> (32 - REFRESH_BITS)
        found.setdefault(prefix, data)
        number += 1
    return tuple(found[prefix] for prefix in range(1 << REFRESH_BITS))


def find_key_in_bucket(own: int, index: int, rng: random.Random) -> bytes:
    """Bytes whose key falls into bucket `index` (0 to 11) of the node at `own`; which part of the bucket, `rng` decides."""
    if not 0 <= index < REFRESH_BITS:
        raise ValueError(
            f"refresh keys exist for buckets 0 to {REFRESH_BITS - 1}, not {index}: look up the own id instead"
        )
    below = REFRESH_BITS - 1 - index
    prefix = (own >> (KEY_BITS - REFRESH_BITS) >> below ^ 1) << below
    return _preimages()[prefix | rng.getrandbits(below) if below else prefix]
