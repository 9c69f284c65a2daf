"""Every protocol's codec: round trip, any bytes, changed bytes, newer and other versions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import MalformedMessage, UnsupportedVersion
from quiver.ids import RequestId
from quiver.values.frames import AckFrame, Chunk, InferenceFrame, ReceiptsFrame
from quiver.values.kad import KadMessage
from quiver.values.offer import OfferAnswer, OfferQuestion
from quiver.wire.codec import VERSION
from quiver.wire.protocols import ACKS, INFERENCE, KAD, OFFER, RECEIPTS
from tests.examples import examples
from tests.property.messages import messages, mutations

CODECS = [
    (INFERENCE, InferenceFrame), (ACKS, AckFrame), (RECEIPTS, ReceiptsFrame), (OFFER, OfferQuestion | OfferAnswer),
    (KAD, KadMessage),
]  # fmt: skip
every_codec = pytest.mark.parametrize(("codec", "kind"), CODECS, ids=[codec.id for codec, _ in CODECS])
# The DHT's is libp2p's protobuf, without a version.
OURS = [(codec, kind) for codec, kind in CODECS if codec is not KAD]
every_codec_of_ours = pytest.mark.parametrize(("codec", "kind"), OURS, ids=[codec.id for codec, _ in OURS])
REFUSED = (MalformedMessage, UnsupportedVersion)


@every_codec
@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_a_message_comes_back_as_it_was_and_its_size_is_known_without_its_bytes(codec, kind, data):
    message = data.draw(messages(kind))
    encoded = codec.encode(message)
    assert codec.decode(encoded) == message
    assert codec.size(message) == len(encoded)
    assert codec is KAD or encoded[0] == VERSION


@every_codec
@settings(max_examples=examples(200), deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda rest: bytes((VERSION,)) + rest)))
def test_any_bytes_are_a_message_or_malformed(codec, kind, data):
    try:
        message = codec.decode(data)
    except REFUSED:
        return
    assert isinstance(message, kind)


@every_codec
@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_changed_bytes_are_refused_or_a_message_with_an_encoding_of_its_own(codec, kind, data):
    changed = data.draw(mutations(codec.encode(data.draw(messages(kind)))))
    try:
        message = codec.decode(changed)
    except REFUSED:
        return
    # By bytes, because a changed float may be not a number, which equals nothing.
    canonical = codec.encode(message)
    assert codec.encode(codec.decode(canonical)) == canonical


@every_codec_of_ours
@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_fields_of_a_newer_minor_version_are_ignored_and_another_major_is_refused_by_name(codec, kind, data):
    message = data.draw(messages(kind))
    encoded = codec.encode(message)
    fields = msgspec.msgpack.decode(encoded[1:])
    newer = {**fields, "later": 1} if isinstance(fields, dict) else [*fields, "later", 1]
    assert codec.decode(bytes((VERSION | 0x0F,)) + msgspec.msgpack.encode(newer)) == message
    major = data.draw(st.integers(0, 15).filter(lambda major: major != VERSION >> 4))
    with pytest.raises(UnsupportedVersion, match=f"{codec.id}: peer speaks major version {major}, we speak 1"):
        codec.decode(bytes((major << 4,)) + encoded[1:])


@every_codec
def test_an_oversized_message_is_refused_before_it_is_looked_at(codec, kind):
    with pytest.raises(MalformedMessage, match=f"{codec.id}: .* at most {codec.frame_bytes_max}"):
        codec.decode(bytes((VERSION,)) + bytes(codec.frame_bytes_max))


def test_an_oversized_message_is_not_sent():
    text = "x" * INFERENCE.frame_bytes_max
    with pytest.raises(MalformedMessage, match=r"/quiver/inference/1.0.0: .* at most 4194304 may be sent"):
        INFERENCE.encode(Chunk(request_id=RequestId(bytes(16)), index=0, tokens=1, text=text))


@every_codec
def test_nesting_without_end_is_malformed(codec, kind):
    for opening in (b"\x91", b"\x81\xa1a"):
        with pytest.raises(MalformedMessage):
            codec.decode((bytes((VERSION,)) + opening * 100_000)[: codec.frame_bytes_max])


def test_a_frame_with_an_unknown_tag_is_malformed_and_says_which():
    data = bytes((VERSION,)) + msgspec.msgpack.encode(["?", b"request"])
    with pytest.raises(MalformedMessage, match=r"/quiver/inference/1.0.0: .*'\?'"):
        INFERENCE.decode(data)
