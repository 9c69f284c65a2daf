"""Signed peer records: any bytes are refused by name, or are the one record that was signed."""

from quiver.errors import BadSignature, MalformedMessage
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key
from quiver.values.identify import PeerRecord
from quiver.wire.envelope import decode_peer_record, open_peer_record, seal_peer_record

_KEYS = KeyPair(b"\x01" * 32)
RECORD = PeerRecord(peer_id=_KEYS.peer_id, seq=300, addresses=(b"\x04\x7f\x00\x00\x01", b""))
SEEDS = [seal_peer_record(RECORD, public_key=encode_public_key(_KEYS.public_key), sign=_KEYS.sign)]


def one_input(data: bytes) -> None:
    try:
        decode_peer_record(data)
    except MalformedMessage:
        pass
    try:
        assert open_peer_record(data) == RECORD
    except (MalformedMessage, BadSignature):
        return
