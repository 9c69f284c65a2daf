"""libp2p peer ids of Ed25519 keys (libp2p specs: peer-ids.md)."""

from __future__ import annotations

from quiver.errors import MalformedMessage
from quiver.ids import PeerId, base58_decode, base58_encode

# PublicKey protobuf: field 1 (Type) = 1 Ed25519, field 2 (Data) = 32 bytes.
_KEY_PREFIX = bytes.fromhex("08011220")
# identity multihash of the 36-byte protobuf
_ID_PREFIX = bytes.fromhex("0024") + _KEY_PREFIX


def encode_public_key(public_key: bytes) -> bytes:
    """The deterministic PublicKey protobuf."""
    return _KEY_PREFIX + public_key


def compute_peer_id(public_key: bytes) -> PeerId:
    """Peer id of a 32-byte Ed25519 public key."""
    if len(public_key) != 32:
        raise MalformedMessage(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return PeerId(_ID_PREFIX + public_key)


def public_key_of(peer_id: PeerId) -> bytes:
    """The Ed25519 key inside the peer id; `MalformedMessage` for any other kind of peer id."""
    if len(peer_id) != 38 or not peer_id.startswith(_ID_PREFIX):
        raise MalformedMessage("this peer id does not hold an Ed25519 key")
    return peer_id[6:]


def peer_id_text(peer_id: PeerId) -> str:
    """base58btc form: 12D3KooW..."""
    return base58_encode(peer_id)


def parse_peer_id(text: str) -> PeerId:
    """Base58 form, or CIDv1 in base32 (`bafz...`); `MalformedMessage` says what is wrong."""
    try:
        raw = _parse_cid(text) if text.startswith("b") else base58_decode(text)
    except ValueError as error:
        raise MalformedMessage(f"{text!r} is not a peer id: {error}") from error
    if len(raw) < 4 or raw[1] != len(raw) - 2:
        raise MalformedMessage(f"{text!r} is not a peer id: not a multihash")
    return PeerId(raw)


def _parse_cid(text: str) -> bytes:
    import base64

    body = text[1:].upper()
    raw = base64.b32decode(body + "=" * (-len(body) % 8))
    # CIDv1, codec libp2p-key
    if raw[:2] != b"\x01\x72":
        raise ValueError("a CID that does not hold a libp2p key")
    return raw[2:]
