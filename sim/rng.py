"""Random substreams of a simulation: one seed, and a name for each purpose.

Rules of this file: a substream depends only on (seed, names), never on the order of the calls, on the process or on
PYTHONHASHSEED. Draws that belong to a request are named by the request, so all policies face the same world.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np

Name = str | int | bytes


def compute_digest(seed: int, names: tuple[Name, ...]) -> bytes:
    """SHA-256 over the seed and the names; each part carries its type and length, so ("a", "b") differs from ("ab",)."""
    digest = hashlib.sha256()
    for part in (seed, *names):
        if isinstance(part, str):
            kind, raw = b"s", part.encode()
        elif isinstance(part, bytes):
            kind, raw = b"b", part
        elif isinstance(part, int) and not isinstance(part, bool):
            kind, raw = b"i", b"%d" % part
        else:
            raise TypeError(f"a substream is named by str, int or bytes, not by {part!r}: pass a stable id of it")
        digest.update(kind + len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


class Substreams:
    """All random streams of one run.

    >>> Substreams(1).stream("gateway", 3, "policy").random() == Substreams(1).stream("gateway", 3, "policy").random()
    True
    """

    __slots__ = ("seed",)

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def digest(self, *names: Name) -> bytes:
        """32 bytes of the substream: a cheap keyed hash for single draws."""
        return compute_digest(self.seed, names)

    def stream(self, *names: Name) -> random.Random:
        """A fresh generator; call with (entity, purpose), and keep what it returns."""
        return random.Random(int.from_bytes(compute_digest(self.seed, names), "big"))

    def numpy(self, *names: Name) -> np.random.Generator:
        """The same for world inputs drawn in bulk (PCG64)."""
        return np.random.Generator(np.random.PCG64(int.from_bytes(compute_digest(self.seed, names), "big")))

    def uniform(self, *names: Name) -> float:
        """One draw in [0, 1) with 53 bits, about 3 us: a whole generator costs several times more."""
        return (int.from_bytes(compute_digest(self.seed, names)[:8], "big") >> 11) * 2.0**-53

    def child(self, *names: Name) -> Substreams:
        """Substreams of their own for a part of the world."""
        return Substreams(int.from_bytes(compute_digest(self.seed, names), "big"))
