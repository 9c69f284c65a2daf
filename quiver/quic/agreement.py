"""How a stream comes to its protocol. What arrives in one piece, as it mostly does, needs no object; the rest goes through
multistream-select's own readers, which the stream keeps until then.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache

from quiver.quic.events import FrameStream
from quiver.wire.multistream import Dialer, Listener, encode_proposal, split_proposal

proposal = lru_cache(maxsize=256)(encode_proposal)
"What a dialer writes first; protocols we dial are few."


def hear_echo(stream: FrameStream, data: bytes) -> bytes | None:
    """What follows the peer's agreement to the protocol we proposed; None before it. `NegotiationFailed` on a refusal."""
    if stream.dialer is None:
        echo = proposal(stream.protocol_id)
        if data.startswith(echo):
            return data[len(echo) :]
        stream.dialer = Dialer(stream.protocol_id)
    return stream.dialer.feed(data)


def hear_proposal(stream: FrameStream, data: bytes, served: Container[str]) -> tuple[bytes, bytes | None]:
    """(what to write, what follows the proposal that sets `protocol_id`, or None). `NegotiationFailed` for broken rules."""
    if stream.listener is None:
        first = split_proposal(data)
        if first is not None and first[0] in served:
            stream.protocol_id, end = first
            return data[:end], data[end:]
        stream.listener = Listener(served.__contains__)
    reply, rest = stream.listener.feed(data)
    if stream.listener.protocol_id is None:
        return reply, None
    stream.protocol_id = stream.listener.protocol_id
    return reply, rest
