"""Signed envelopes and peer records: bytes by hand, every key type, and records that prove nothing."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import BadSignature, MalformedMessage
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import compute_host_peer_id, encode_public_key
from quiver.values.identify import Envelope, PeerRecord
from quiver.wire.envelope import (
    ADDRESSES_MAX,
    ENVELOPE_BYTES_MAX,
    PEER_RECORD_DOMAIN,
    PEER_RECORD_TYPE,
    check_envelope,
    decode_envelope,
    decode_peer_record,
    encode_envelope,
    encode_peer_record,
    open_peer_record,
    seal,
    seal_peer_record,
    signed_bytes,
)
from quiver.wire.protobuf import bytes_field
from tests.unit.identity.vectors import KINDS, host_key, sign

KEYS = KeyPair(b"\x01" * 32)
KEY = encode_public_key(KEYS.public_key)
ADDRESS = bytes.fromhex("047f00000191020fa1cd03")
RECORD = PeerRecord(peer_id=KEYS.peer_id, seq=300, addresses=(ADDRESS,))
RECORD_HEX = "0a26" + KEYS.peer_id.hex() + "10ac02" + "1a0d" + "0a0b" + ADDRESS.hex()


def sealed(record=RECORD, **changes):
    return seal_peer_record(record, **{"public_key": KEY, "sign": KEYS.sign} | changes)


def test_the_bytes_by_hand():
    assert encode_peer_record(RECORD).hex() == RECORD_HEX
    assert decode_peer_record(bytes.fromhex(RECORD_HEX)) == RECORD
    payload = bytes.fromhex(RECORD_HEX)
    message = bytes.fromhex("12") + b"libp2p-peer-record" + bytes.fromhex("020301") + bytes((len(payload),)) + payload
    assert signed_bytes(PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, payload) == message
    assert sealed() == (
        b"\x0a\x24" + KEY + b"\x12\x02\x03\x01" + b"\x1a" + bytes((len(payload),)) + payload + b"\x2a\x40"
        + KEYS.sign(message)
    )  # fmt: skip


def test_a_record_comes_back_from_its_envelope():
    assert open_peer_record(sealed()) == RECORD


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_of_any_key_type_signs_its_record(kind):
    record = PeerRecord(peer_id=compute_host_peer_id(host_key(kind)), seq=(1 << 64) - 1)
    data = seal_peer_record(record, public_key=host_key(kind), sign=lambda message: sign(kind, message))
    assert open_peer_record(data) == record


def test_a_record_of_another_peer_is_refused():
    other = KeyPair(b"\x02" * 32)
    with pytest.raises(BadSignature, match="signed by another peer"):
        open_peer_record(sealed(msgspec.structs.replace(RECORD, peer_id=other.peer_id)))


def test_another_key_domain_type_or_payload_is_refused():
    other = KeyPair(b"\x02" * 32)
    envelope = decode_envelope(sealed())
    for changed in (
        {"public_key": encode_public_key(other.public_key)},
        {"payload": envelope.payload + b"\x10\x01"},
        {"signature": other.sign(b"")},
        {"signature": b""},
    ):
        with pytest.raises(BadSignature, match="does not verify"):
            open_peer_record(encode_envelope(msgspec.structs.replace(envelope, **changed)))
    with pytest.raises(BadSignature, match="around 0302, not 0301"):
        open_peer_record(encode_envelope(msgspec.structs.replace(envelope, payload_type=b"\x03\x02")))
    # The domain of RFC 3's text, which nobody signs.
    elsewhere = seal(
        envelope.payload, payload_type=PEER_RECORD_TYPE, domain="libp2p-routing-state", public_key=KEY, sign=KEYS.sign
    )
    with pytest.raises(BadSignature, match="libp2p-peer-record does not verify"):
        check_envelope(elsewhere, payload_type=PEER_RECORD_TYPE, domain=PEER_RECORD_DOMAIN)
    check_envelope(elsewhere, payload_type=PEER_RECORD_TYPE, domain="libp2p-routing-state")


def test_what_is_no_envelope_or_record_is_malformed():
    assert decode_envelope(b"") == Envelope(public_key=b"", payload_type=b"", payload=b"", signature=b"")
    for data in (b"\x0a", bytes(ENVELOPE_BYTES_MAX + 1)):
        with pytest.raises(MalformedMessage):
            decode_envelope(data)
    for record in (b"", bytes_field(1, b"no peer id"), bytes_field(1, KEYS.peer_id) + b"\x1a\x02\x0a\x05"):
        with pytest.raises(MalformedMessage):
            decode_peer_record(record)
    with pytest.raises(MalformedMessage, match="PublicKey"):
        check_envelope(
            Envelope(public_key=b"", payload_type=PEER_RECORD_TYPE, payload=b"", signature=b""),
            payload_type=PEER_RECORD_TYPE,
            domain=PEER_RECORD_DOMAIN,
        )


def test_a_record_has_at_most_so_many_addresses():
    prefix = bytes_field(1, KEYS.peer_id)
    assert len(decode_peer_record(prefix + bytes_field(3, b"") * ADDRESSES_MAX).addresses) == ADDRESSES_MAX
    with pytest.raises(MalformedMessage, match="257 addresses"):
        decode_peer_record(prefix + bytes_field(3, b"") * (ADDRESSES_MAX + 1))
