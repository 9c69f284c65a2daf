"""Key pairs and their verification: Ed25519 by libsodium, secp256k1 by libsecp256k1. Keys never appear in a repr or a log."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import coincurve
import nacl.bindings
import nacl.exceptions
from Crypto.Hash import keccak

from quiver.identity.peer_id import compute_peer_id
from quiver.ids import Address

SIGNATURE_BYTES, SESSION_SIGNATURE_BYTES = 64, 65
# Session keys a seed has: a rotation takes two days, so these last for months of nothing else.
SESSIONS_MAX = 64
# Half of the secp256k1 group order: a larger s is the malleable twin of a valid signature.
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


@lru_cache(maxsize=4096)
def compute_address(public_key: bytes) -> Address:
    """EVM address of a compressed secp256k1 key: last 20 bytes of keccak-256 of the uncompressed point."""
    point = coincurve.PublicKey(public_key).format(compressed=False)[1:]
    return Address(keccak.new(data=point, digest_bits=256).digest()[12:])


class KeyPair:
    """A node's identity key, session key and account key, all derived from one 32-byte secret seed."""

    __slots__ = (
        "_ed25519_secret",
        "_seed",
        "_session",
        "_sessions",
        "_account",
        "public_key",
        "peer_id",
        "session_public_key",
        "session_address",
        "account",
    )

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError(f"a key seed has 32 bytes, not {len(seed)}")
        self.public_key, self._ed25519_secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        self._seed = seed
        self._session = coincurve.PrivateKey(hashlib.sha256(b"QUIVer/session-key/v1" + seed).digest())
        self._account = coincurve.PrivateKey(hashlib.sha256(b"QUIVer/account-key/v1" + seed).digest())
        self.peer_id = compute_peer_id(self.public_key)
        self.session_public_key = self._session.public_key.format()
        self.session_address = compute_address(self.session_public_key)
        self.account = compute_address(self._account.public_key.format())
        self._sessions = {self.session_address: self._session}

    def __repr__(self) -> str:
        return f"KeyPair(account=0x{self.account.hex()})"

    def sign(self, message: bytes) -> bytes:
        """Ed25519, 64 bytes."""
        return nacl.bindings.crypto_sign(message, self._ed25519_secret)[:SIGNATURE_BYTES]

    def sign_session(self, digest: bytes, session: Address | None = None) -> bytes:
        """secp256k1 over a 32-byte digest: r | s | v with low s, 65 bytes; by the first session key, or that of `session`.

        `ValueError` for a session that is none of ours.
        """
        if session is None:
            return self._session.sign_recoverable(digest, hasher=None)
        self._derive_sessions(session)
        if session not in self._sessions:
            raise ValueError("this session key is none of this node's")
        return self._sessions[session].sign_recoverable(digest, hasher=None)

    def next_session(self, session: Address) -> Address:
        """The session key after `session`, to rotate to. `ValueError` after the last, or for one that is none of ours."""
        self._derive_sessions(None)
        addresses = list(self._sessions)
        if session not in self._sessions or session == addresses[-1]:
            raise ValueError("there is no session key of this node after this one")
        return addresses[addresses.index(session) + 1]

    def _derive_sessions(self, until: Address | None) -> None:
        """In order, up to the one asked for: whoever has the seed finds every key a channel was ever rotated to."""
        for number in range(len(self._sessions), SESSIONS_MAX):
            if until in self._sessions:
                return
            secret = hashlib.sha256(b"QUIVer/session-key/v1" + self._seed + number.to_bytes(4, "big")).digest()
            key = coincurve.PrivateKey(secret)
            self._sessions[compute_address(key.public_key.format())] = key

    def sign_account(self, digest: bytes) -> bytes:
        """The same by the account's key: what moves this node's money. Only a transaction's digest belongs here."""
        return self._account.sign_recoverable(digest, hasher=None)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519 as libsodium defines valid; False for anything else, whatever its shape."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != 32:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public_key)
    except (nacl.exceptions.BadSignatureError, ValueError):
        return False
    return True


def verify_session(address: Address, digest: bytes, signature: bytes) -> bool:
    """secp256k1 r | s | v over `digest`, low s, recovers to `address`."""
    if len(signature) != SESSION_SIGNATURE_BYTES or int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return False
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception:  # coincurve raises bare Exception for an unrecoverable signature
        return False
    return compute_address(key.format()) == address
