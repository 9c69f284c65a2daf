"""Keys of the DHT as people write them."""

from __future__ import annotations

import base64
import binascii
import hashlib

from quiver.dht.public_key import PUBLIC_KEY_NAMESPACE, public_key_record_key
from quiver.errors import MalformedMessage, UsageError
from quiver.identity.peer_id import parse_peer_id
from quiver.ids import DIGEST_BYTES, base58_decode, model_id_from_digest
from quiver.provider.models import content_key
from quiver.wire.protobuf import decode_varint

_SHA256_HEAD = bytes((0x12, DIGEST_BYTES))


def parse_key(text: str) -> bytes:
    """Key of provider records: a model's digest, a CID (its multihash counts), `0x...`, or any text, whose multihash is taken."""
    if not text:
        raise UsageError("a key is not empty")
    if text.startswith("0x"):
        return parse_hex(text)
    try:
        return content_key(model_id_from_digest(text))
    except ValueError:
        pass
    if text.startswith("Qm") and len(text) == 46:
        return base58_decode(text)
    try:
        return parse_cid(text)
    except ValueError:
        return _SHA256_HEAD + hashlib.sha256(text.encode()).digest()


def parse_cid(text: str) -> bytes:
    """The multihash inside a CIDv1 in base32 (`bafy...`); ValueError for anything else (multiformats CID)."""
    body = text[1:].upper()
    if not text.startswith("b"):
        raise ValueError("only CIDs in base32, which start with b, are read")
    try:
        raw = base64.b32decode(body + "=" * (-len(body) % 8))
        version, offset = decode_varint(raw, 0)
        _, offset = decode_varint(raw, offset)
        _, start = decode_varint(raw, offset)
        length, start = decode_varint(raw, start)
    except (MalformedMessage, binascii.Error) as error:
        raise ValueError(f"not a CID: {error}") from error
    if version != 1 or len(raw) - start != length:
        raise ValueError("not a CID of version 1")
    return raw[offset:]


def parse_record_key(text: str) -> bytes:
    """Key of a value: `/pk/PEER`, or another `/namespace/rest` as it stands."""
    parts = text.split("/", 2)
    if len(parts) != 3 or parts[0] or not parts[2]:
        raise UsageError(f"{text!r} is not the key of a value: write /namespace/rest, as in /pk/PEER_ID")
    if parts[1] != PUBLIC_KEY_NAMESPACE:
        return text.encode()
    try:
        return public_key_record_key(parse_peer_id(parts[2]))
    except MalformedMessage as error:
        raise UsageError(str(error)) from error


def parse_hex(text: str) -> bytes:
    """Bytes of `0x` and hex digits."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise UsageError(f"{text!r} is not 0x and pairs of hex digits") from error
