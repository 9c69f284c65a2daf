"""Keys of simulated nodes: real signatures, or modelled ones that cost a hash each.

Modelled: a signature is a keyed BLAKE2b over the message under the public key (or session address). Anyone could compute one, so
adversaries forge by altering bytes, never by calling the signer of another node. Fidelity is a switch of the scenario.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum

from quiver.identity import keys
from quiver.identity.peer_id import compute_peer_id
from quiver.ids import Address, PeerId
from quiver.ports import SignatureCheck


class Signatures(StrEnum):
    """How true signatures are in a run."""

    REAL = "real"
    MODELLED = "modelled"


def derive(seed: int, name: str, purpose: str, size: int = 32) -> bytes:
    """`size` bytes that belong to (seed, name, purpose) alone."""
    return hashlib.blake2b(f"{seed}/{name}/{purpose}".encode(), digest_size=size, person=b"QUIVer/sim-key").digest()


def compute_tag(public: bytes, message: bytes, purpose: bytes) -> bytes:
    """The modelled signature: 64 bytes bound to who, what and for which purpose."""
    return hashlib.blake2b(message, key=public, person=purpose, digest_size=64).digest()


def model_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Modelled Ed25519."""
    return len(public_key) == 32 and signature == compute_tag(public_key, message, b"ed25519")


def model_verify_session(address: Address, digest: bytes, signature: bytes) -> bool:
    """Modelled secp256k1."""
    return len(address) == 20 and signature == compute_tag(address, digest, b"secp256k1") + b"\0"


class SimSigner:
    """The `Signer` port of the node called `name`: the same keys for the same (seed, name, mode)."""

    def __init__(self, seed: int, name: str, *, mode: Signatures | str = Signatures.MODELLED) -> None:
        self._pair = keys.KeyPair(derive(seed, name, "seed")) if Signatures(mode) is Signatures.REAL else None
        if self._pair is not None:
            self.public_key = self._pair.public_key
            self.session_public_key = self._pair.session_public_key
            self.session_address = self._pair.session_address
            self.account = self._pair.account
        else:
            self.public_key = derive(seed, name, "ed25519")
            self.session_public_key = b"\x02" + derive(seed, name, "session")
            self.session_address = Address(derive(seed, name, "session-address", 20))
            self.account = Address(derive(seed, name, "account", 20))
        self.peer_id: PeerId = compute_peer_id(self.public_key)

    async def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        if self._pair is not None:
            return self._pair.sign(message)
        return compute_tag(self.public_key, message, b"ed25519")

    async def sign_session(self, digest: bytes, session: Address | None = None) -> bytes:
        """65 bytes."""
        if self._pair is not None:
            return self._pair.sign_session(digest, session)
        if session not in (None, self.session_address, self.next_session(self.session_address)):
            raise ValueError("this session key is none of this node's")
        return compute_tag(session or self.session_address, digest, b"secp256k1") + b"\0"

    def next_session(self, session: Address) -> Address:
        """The session key after `session`; modelled keys have one rotation."""
        if self._pair is not None:
            return self._pair.next_session(session)
        return Address(hashlib.blake2b(self.session_address, digest_size=20, person=b"QUIVer/rotation").digest())


class SimVerifier:
    """The `Verifier` port. `verify_session_now` is what a contract model of the same world needs."""

    def __init__(self, *, mode: Signatures | str = Signatures.MODELLED) -> None:
        real = Signatures(mode) is Signatures.REAL
        self._verify_now = keys.verify if real else model_verify
        self.verify_session_now = keys.verify_session if real else model_verify_session

    async def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` belongs to key and message."""
        return self._verify_now(public_key, message, signature)

    async def verify_session(self, address: Address, digest: bytes, signature: bytes) -> bool:
        """Whether `signature` belongs to the session address and digest."""
        return self.verify_session_now(address, digest, signature)

    async def find_invalid(self, checks: Sequence[SignatureCheck]) -> int | None:
        """Index of the first that is not valid, None if all are."""
        for index, (signer, message, signature, is_session) in enumerate(checks):
            is_valid = (
                self.verify_session_now(Address(signer), message, signature)
                if is_session
                else self._verify_now(signer, message, signature)
            )
            if not is_valid:
                return index
        return None
