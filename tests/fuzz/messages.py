"""QUIVer's own messages: the first byte names the protocol, the rest is a message of it or refused."""

from quiver.errors import MalformedMessage, UnsupportedVersion
from quiver.values.frames import Accept, Chunk
from quiver.wire.codec import VERSION
from quiver.wire.protocols import ACKS, INFERENCE, OFFER, RECEIPTS

CODECS = (INFERENCE, ACKS, RECEIPTS, OFFER)
SEEDS = [
    b"\x00" + INFERENCE.encode(Chunk(request_id=bytes(16), index=0, tokens=1, text="text")),
    b"\x00" + INFERENCE.encode(Accept(request_id=bytes(16))),
    *(bytes((number, VERSION)) + b"\x91\xa1" + bytes((tag,)) for number, tag in ((0, 65), (1, 75), (2, 83), (3, 81))),
]


def one_input(data: bytes) -> None:
    codec = CODECS[data[0] % len(CODECS)] if data else INFERENCE
    try:
        message = codec.decode(data[1:])
    except (MalformedMessage, UnsupportedVersion):
        return
    encoded = codec.encode(message)
    assert codec.size(message) == len(encoded)
    assert codec.encode(codec.decode(encoded)) == encoded
