"""A transaction as chains take it: EIP-1559 (type 2), signed by the account's key.

Rules of this file: no I/O. The key stays where it is; only digests go to it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import rlp

from quiver.ids import Address
from quiver.live.chain.artefact import keccak256
from quiver.live.chain.fees import Fees

Sign = Callable[[bytes], bytes]
"Over a 32-byte digest: r | s | v, 65 bytes, low s, v 0 or 1."
_TYPE = b"\x02"


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, without its fees: these may have to grow."""

    nonce: int
    to: Address | None
    "None makes a contract."
    value: int
    calldata: bytes
    gas: int


def sign_envelope(envelope: Envelope, fees: Fees, *, chain_id: int, sign: Sign) -> bytes:
    """Bytes for `eth_sendRawTransaction`."""
    fields: list[object] = [
        chain_id, envelope.nonce, fees.priority_wei, fees.max_wei, envelope.gas, envelope.to or b"", envelope.value,
        envelope.calldata, [],
    ]  # fmt: skip
    signature = sign(keccak256(_TYPE + rlp.encode(fields)))
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    return _TYPE + bytes(rlp.encode([*fields, signature[64], r, s]))


def hash_signed(signed: bytes) -> bytes:
    """The transaction's id on the chain."""
    return keccak256(signed)
