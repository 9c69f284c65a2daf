"""libp2p peer ids: multihashes of public keys, and their text forms (libp2p specs: peer-ids.md)."""

from __future__ import annotations

import base64
import binascii
import hashlib

from quiver.errors import MalformedMessage
from quiver.ids import PeerId, base58_decode, base58_encode

# Key protobufs up to this many bytes are inlined in a peer id, longer ones hashed (libp2p specs, peer-ids).
INLINE_KEY_BYTES_MAX = 42
# PublicKey protobuf: field 1 (Type) = 1 Ed25519, field 2 (Data) = 32 bytes.
_KEY_PREFIX = bytes.fromhex("08011220")
# identity multihash of the 36-byte protobuf
_ID_PREFIX = bytes.fromhex("0024") + _KEY_PREFIX
# CIDv1, codec libp2p-key
_CID_PREFIX = bytes.fromhex("0172")
_IDENTITY, _SHA256 = 0x00, 0x12
# The longest text: base32 of a CID with 42 inlined bytes has 75 letters. Longer text is refused before it is turned into a number.
TEXT_LETTERS_MAX = 128
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def encode_public_key(public_key: bytes) -> bytes:
    """The deterministic PublicKey protobuf of an Ed25519 key."""
    return _KEY_PREFIX + public_key


def compute_peer_id(public_key: bytes) -> PeerId:
    """Peer id of a 32-byte Ed25519 public key."""
    if len(public_key) != 32:
        raise MalformedMessage(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return PeerId(_ID_PREFIX + public_key)


def compute_host_peer_id(host_key: bytes) -> PeerId:
    """Peer id of any PublicKey protobuf: identity multihash up to 42 bytes, sha2-256 beyond."""
    if len(host_key) <= INLINE_KEY_BYTES_MAX:
        return PeerId(bytes((_IDENTITY, len(host_key))) + host_key)
    return PeerId(bytes((_SHA256, 32)) + hashlib.sha256(host_key).digest())


def public_key_of(peer_id: PeerId) -> bytes:
    """The Ed25519 key inside the peer id; `MalformedMessage` for any other kind of peer id."""
    if len(peer_id) != 38 or not peer_id.startswith(_ID_PREFIX):
        raise MalformedMessage("this peer id does not hold an Ed25519 key")
    return peer_id[6:]


def host_key_of(peer_id: PeerId) -> bytes | None:
    """The PublicKey protobuf inlined in the peer id; None where the id is only its hash (RSA, ECDSA)."""
    return peer_id[2:] if peer_id[0] == _IDENTITY else None


def check_peer_id(raw: bytes) -> PeerId:
    """`raw` as a peer id, or `MalformedMessage`: an identity multihash of up to 42 bytes, or a sha2-256 one."""
    is_inline = len(raw) > 2 and raw[0] == _IDENTITY and raw[1] == len(raw) - 2 <= INLINE_KEY_BYTES_MAX
    is_hashed = len(raw) == 34 and raw[0] == _SHA256 and raw[1] == 32
    if not is_inline and not is_hashed:
        raise MalformedMessage("not the multihash of a key")
    return PeerId(raw)


def peer_id_text(peer_id: PeerId) -> str:
    """base58btc form: 12D3KooW..., 16Uiu2HA... or Qm..."""
    return base58_encode(peer_id)


def peer_id_cid(peer_id: PeerId) -> str:
    """CIDv1 in base32: bafz..."""
    return "b" + base64.b32encode(_CID_PREFIX + peer_id).decode().lower().rstrip("=")


def peer_id_cid36(peer_id: PeerId) -> str:
    """CIDv1 in base36, which is short enough for a DNS label: k..."""
    number, letters = int.from_bytes(_CID_PREFIX + peer_id, "big"), []
    while number:
        number, digit = divmod(number, 36)
        letters.append(_BASE36[digit])
    # No leading zero to keep: the first byte of a CIDv1 is its version, 1.
    return "k" + "".join(reversed(letters))


def parse_peer_id(text: str) -> PeerId:
    """Base58 form, or CIDv1 in base32 (`bafz...`), base36 (`k...`) or base58 (`z...`); `MalformedMessage` says what is wrong."""
    try:
        if len(text) > TEXT_LETTERS_MAX:
            raise ValueError(f"{len(text)} letters; at most {TEXT_LETTERS_MAX} are read")
        raw = base58_decode(text) if text.startswith(("1", "Qm")) else _parse_cid(text)
        return check_peer_id(raw)
    except (ValueError, MalformedMessage) as error:
        raise MalformedMessage(f"{text[:TEXT_LETTERS_MAX]!r} is not a peer id: {error}") from error


def _parse_cid(text: str) -> bytes:
    base, body = text[:1], text[1:]
    if base == "b":
        raw = _decode_base32(body)
    elif base == "k":
        raw = _decode_base36(body)
    elif base == "z":
        raw = base58_decode(body)
    else:
        raise ValueError("it starts with '1' or 'Qm', or is a CID that starts with 'b', 'k' or 'z'")
    if raw[:2] != _CID_PREFIX:
        raise ValueError("a CID that does not hold a libp2p key")
    return raw[2:]


def _decode_base32(body: str) -> bytes:
    """RFC 4648 in lower case without padding; bits left over are zero."""
    try:
        raw = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except binascii.Error as error:
        raise ValueError(f"not base32: {error}") from error
    if base64.b32encode(raw).decode().lower().rstrip("=") != body:
        raise ValueError("base32 that is not in its one form: lower case, no padding, no bits left over")
    return raw


def _decode_base36(body: str) -> bytes:
    number = 0
    for letter in body:
        if letter not in _BASE36:
            raise ValueError(f"{letter!r} is not a base36 letter")
        number = number * 36 + _BASE36.index(letter)
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
