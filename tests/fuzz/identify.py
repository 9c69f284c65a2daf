"""identify: any bytes are malformed, or a message whose parts say the same."""

from quiver.errors import MalformedMessage
from quiver.values.identify import Identify
from quiver.wire.identify import IDENTIFY, IdentifyCodec, merge, split

CODEC = IdentifyCodec(IDENTIFY)
SEEDS = [
    b"",
    CODEC.encode(
        Identify(
            public_key=b"key", listen_addresses=(b"\x04\x7f\x00\x00\x01",), protocols=("/a", "/é"), observed_address=b"",
            protocol_version="ipfs/0.1.0", agent_version="q", signed_peer_record=b"envelope",
        )
    ),
]  # fmt: skip


def one_input(data: bytes) -> None:
    try:
        message = CODEC.decode(data)
        assert merge(split(message)) == message
        assert CODEC.decode(CODEC.encode(message)) == message
    except MalformedMessage:
        return
