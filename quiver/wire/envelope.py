"""Signed envelopes and the peer record in them (libp2p specifications, RFC 2 and RFC 3).

The domain of a peer record is `libp2p-peer-record`, as every implementation signs it; RFC 3's text names another one.
"""

from __future__ import annotations

from collections.abc import Callable

from quiver.errors import BadSignature, MalformedMessage
from quiver.identity.host_key import verify_host_signature
from quiver.identity.peer_id import check_peer_id, compute_host_peer_id
from quiver.values.identify import Envelope, PeerRecord
from quiver.wire.framing import encode_frame
from quiver.wire.protobuf import BYTES, VARINT, bytes_field, fields, tag, varint_field

PEER_RECORD_DOMAIN = "libp2p-peer-record"
PEER_RECORD_TYPE = bytes.fromhex("0301")
# What identify may carry, so nothing larger is ever whole.
ENVELOPE_BYTES_MAX = 8 * 1024
ADDRESSES_MAX = 256

_KEY, _TYPE, _PAYLOAD, _SIGNATURE = tag(1, BYTES), tag(2, BYTES), tag(3, BYTES), tag(5, BYTES)
_PEER_ID, _SEQ, _ADDRESS, _MULTIADDR = tag(1, BYTES), tag(2, VARINT), tag(3, BYTES), tag(1, BYTES)


def encode_envelope(envelope: Envelope) -> bytes:
    """All four fields, in order."""
    return (
        bytes_field(1, envelope.public_key)
        + bytes_field(2, envelope.payload_type)
        + bytes_field(3, envelope.payload)
        + bytes_field(5, envelope.signature)
    )


def decode_envelope(data: bytes) -> Envelope:
    """The envelope, unchecked; `MalformedMessage`."""
    if len(data) > ENVELOPE_BYTES_MAX:
        raise MalformedMessage(f"an envelope of {len(data)} bytes; at most {ENVELOPE_BYTES_MAX} are read")
    found = {head: body for head, _, body in fields(data)}
    return Envelope(
        public_key=found.get(_KEY, b""),
        payload_type=found.get(_TYPE, b""),
        payload=found.get(_PAYLOAD, b""),
        signature=found.get(_SIGNATURE, b""),
    )


def seal(
    payload: bytes, *, payload_type: bytes, domain: str, public_key: bytes, sign: Callable[[bytes], bytes]
) -> Envelope:
    """`payload` signed for `domain`; `public_key` is the PublicKey protobuf that belongs to `sign`."""
    signature = sign(signed_bytes(domain, payload_type, payload))
    return Envelope(public_key=public_key, payload_type=payload_type, payload=payload, signature=signature)


def signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """Domain, type and payload, each with its varint length in front."""
    return encode_frame(domain.encode()) + encode_frame(payload_type) + encode_frame(payload)


def check_envelope(envelope: Envelope, *, payload_type: bytes, domain: str) -> None:
    """`BadSignature` unless it holds a payload of this type, signed for this domain by its key; `MalformedMessage` for no key."""
    if envelope.payload_type != payload_type:
        raise BadSignature(f"an envelope around {envelope.payload_type.hex()}, not {payload_type.hex()}")
    message = signed_bytes(domain, envelope.payload_type, envelope.payload)
    if not verify_host_signature(envelope.public_key, message, envelope.signature):
        raise BadSignature(f"the envelope's signature for {domain} does not verify")


def encode_peer_record(record: PeerRecord) -> bytes:
    """Fields in order; a seq of 0 is left out, as proto3 does."""
    seq = varint_field(2, record.seq) if record.seq else b""
    addresses = b"".join(bytes_field(3, bytes_field(1, address)) for address in record.addresses)
    return bytes_field(1, record.peer_id) + seq + addresses


def decode_peer_record(data: bytes) -> PeerRecord:
    """The record; `MalformedMessage`, also for a peer id that is none."""
    peer_id, seq, addresses = b"", 0, []
    for head, number, body in fields(data):
        if head == _PEER_ID:
            peer_id = body
        elif head == _SEQ:
            seq = number
        elif head == _ADDRESS:
            addresses.append({inner: value for inner, _, value in fields(body)}.get(_MULTIADDR, b""))
    if len(addresses) > ADDRESSES_MAX:
        raise MalformedMessage(f"a peer record with {len(addresses)} addresses; at most {ADDRESSES_MAX} are read")
    return PeerRecord(peer_id=check_peer_id(peer_id), seq=seq, addresses=tuple(addresses))


def seal_peer_record(record: PeerRecord, *, public_key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The bytes identify carries."""
    envelope = seal(
        encode_peer_record(record),
        payload_type=PEER_RECORD_TYPE,
        domain=PEER_RECORD_DOMAIN,
        public_key=public_key,
        sign=sign,
    )
    return encode_envelope(envelope)


def open_peer_record(data: bytes) -> PeerRecord:
    """The record in a signed envelope. `MalformedMessage`; `BadSignature` unless the peer it names has signed it."""
    envelope = decode_envelope(data)
    check_envelope(envelope, payload_type=PEER_RECORD_TYPE, domain=PEER_RECORD_DOMAIN)
    record = decode_peer_record(envelope.payload)
    if compute_host_peer_id(envelope.public_key) != record.peer_id:
        raise BadSignature("a peer record signed by another peer", peer_id=record.peer_id)
    return record
