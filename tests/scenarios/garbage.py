"""What hostile nodes say: bytes that are no message, frames that have no business there; and how to see that nobody was hurt."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import StreamReset, WireCode
from quiver.values import frames
from quiver.values.receipt import ChannelHead
from quiver.values.request import Final
from quiver.wire.codec import VERSION

V = bytes((VERSION,))
GARBAGE = {
    "nothing": (b"", WireCode.MALFORMED),
    "no fields": (V, WireCode.MALFORMED),
    "not MessagePack": (V + b"\xc1", WireCode.MALFORMED),
    "text": (b"GET / HTTP/1.1\r\n\r\n", WireCode.UNSUPPORTED_VERSION),
    "another major version": (b"\x20" + msgspec.msgpack.encode(["K"]), WireCode.UNSUPPORTED_VERSION),
    "unknown tag": (V + msgspec.msgpack.encode(["?", 1]), WireCode.MALFORMED),
    "unknown type": (V + msgspec.msgpack.encode({"type": "?"}), WireCode.MALFORMED),
    "fields missing": (V + msgspec.msgpack.encode(["A"]), WireCode.MALFORMED),
    "wrong types": (V + msgspec.msgpack.encode(["A", *"abcdefgh"]), WireCode.MALFORMED),
    "cut": (V + msgspec.msgpack.encode(["K", {"channel": bytes(32)}])[:-9], WireCode.MALFORMED),
    "not UTF-8": (V + b"\x92\xa1\xff\xa1\xff", WireCode.MALFORMED),
    "nested without end": (V + b"\x91" * 3000, WireCode.MALFORMED),
}
garbage = pytest.mark.parametrize(("data", "code"), GARBAGE.values(), ids=GARBAGE)


def request_id(number=7):
    return number.to_bytes(16, "big")


STRAY = {
    "chunk": frames.Chunk(request_id=request_id(), index=0, tokens=1, text="x"),
    "accept": frames.Accept(request_id=request_id()),
    "cancel": frames.Cancel(request_id=request_id(), code=0),
    "authorised": frames.Authorised(channel=bytes(32), head=ChannelHead()),
    "busy with an absurd number": frames.Busy(request_id=b"", code=-(1 << 63), retry_after_s=float("nan")),
    "end with absurd numbers": frames.End(
        request_id=b"", done_reason="", prompt_tokens=1 << 63, completion_tokens=-1, chunks=-1, queue_s=float("inf")
    ),
}


async def assert_honest_work_goes_on(stage):
    owed = stage.channel().log.head.cum
    final = (await stage.ask(900))[-1]
    assert isinstance(final, Final) and final.provider == stage.providers[0].peer_id
    assert (final.paid_credits, final.attempts) == (6_000, 1)
    await stage.clock.sleep(2.0)
    # Both ends of the channel and the aggregator hold the same, to the credit.
    assert stage.channel().log.acknowledged == stage.link().channel.log.head == stage.channel().log.head
    assert stage.channel().log.head.cum == owed + 6_000
    assert stage.aggregator.service.window.head(stage.channel().state.channel).cum == owed + 6_000


async def refused(stream):
    """The code the stream is reset with."""
    with pytest.raises(StreamReset) as caught:
        while await stream.receive() is not None:
            pass
    return caught.value.code
