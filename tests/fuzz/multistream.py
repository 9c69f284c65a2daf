"""multistream-select: either end agrees, waits, or refuses by name; what it holds is bounded."""

from quiver.wire.multistream import Dialer, Listener, NegotiationFailed, encode_message, encode_proposal

SEEDS = [
    encode_proposal("/a/1") + b"payload", encode_proposal("/b/1") + encode_message("/a/1"),
    encode_message("/multistream/1.0.0") + encode_message("na"),
]  # fmt: skip


def one_input(data: bytes) -> None:
    listener = Listener(lambda protocol_id: protocol_id == "/a/1")
    for feed in (Dialer("/a/1").feed, listener.feed):
        for at in range(0, len(data), 3):
            try:
                if feed(data[at : at + 3]) is not None and listener.protocol_id is not None:
                    break
            except NegotiationFailed:
                break
