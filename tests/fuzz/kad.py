"""The DHT message: any bytes are malformed, or a message that comes back from its own bytes."""

from quiver.errors import MalformedMessage
from quiver.identity.keys import KeyPair
from quiver.values.kad import KadMessage, KadType, Record
from quiver.values.peer import PeerInfo
from quiver.wire.kad import KAD_QUIVER, KadCodec

CODEC = KadCodec(KAD_QUIVER)
_PEER = PeerInfo(peer_id=KeyPair(b"\x01" * 32).peer_id, addresses=(b"\x04\x7f\x00\x00\x01\x91\x02\x0f\xa1\xcd\x03",))
SEEDS = [
    CODEC.encode(message)
    for message in (
        KadMessage(type=KadType.FIND_NODE, key=b"key", closer=(_PEER, PeerInfo(peer_id=b"x" * 130))),
        KadMessage(type=KadType.GET_PROVIDERS, key=b"key", closer=(_PEER,) * 3, providers=(_PEER,)),
        KadMessage(type=KadType.PUT_VALUE, key=b"/a/b", record=Record(key=b"/a/b", value=b"v", time_received="now")),
    )
]


def one_input(data: bytes) -> None:
    try:
        message = CODEC.decode(data)
    except MalformedMessage:
        return
    encoded = CODEC.encode(message)
    assert CODEC.size(message) == len(encoded) and CODEC.decode(encoded) == message
