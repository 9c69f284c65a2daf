"""libp2p's own messages: protobufs of the DHT, identify, envelopes, host keys; peer ids in every text form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import BadSignature, MalformedMessage
from quiver.identity.host_key import HostKeyType, encode_host_key, parse_host_key, verify_host_signature
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import (
    check_peer_id,
    compute_host_peer_id,
    encode_public_key,
    parse_peer_id,
    peer_id_cid,
    peer_id_cid36,
    peer_id_text,
)
from quiver.ids import PeerId
from quiver.values.identify import Envelope, Identify, PeerRecord
from quiver.values.kad import KadMessage
from quiver.wire import kad
from quiver.wire.envelope import (
    decode_envelope,
    decode_peer_record,
    encode_envelope,
    encode_peer_record,
    open_peer_record,
    seal_peer_record,
)
from quiver.wire.identify import IDENTIFY, IdentifyCodec, merge, split
from quiver.wire.kad import KAD_QUIVER, KadCodec
from quiver.wire.protobuf import bytes_field, decode_varint, encode_varint, fields, varint_field
from tests.examples import examples
from tests.property.messages import messages, mutations
from tests.unit.identity.vectors import KINDS, host_key

CODECS = [(KadCodec(KAD_QUIVER), KadMessage), (IdentifyCodec(IDENTIFY), Identify)]
every_codec = pytest.mark.parametrize(("codec", "kind"), CODECS, ids=[codec.id for codec, _ in CODECS])
KEYS = KeyPair(b"\x01" * 32)
KEY = encode_public_key(KEYS.public_key)
PEER_IDS = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda digest: PeerId(b"\x12\x20" + digest)),
    st.binary(min_size=1, max_size=42).map(lambda key: PeerId(bytes((0, len(key))) + key)),
)
RECORDS = st.builds(
    PeerRecord,
    peer_id=st.just(KEYS.peer_id),
    seq=st.integers(0, (1 << 64) - 1),
    addresses=st.lists(st.binary(max_size=20), max_size=4).map(tuple),
)
# A field of any number in any wire type: what a newer version may add.
STRANGE = st.one_of(
    st.builds(varint_field, st.integers(12, (1 << 29) - 1), st.integers(0, (1 << 64) - 1)),
    st.builds(bytes_field, st.integers(12, (1 << 29) - 1), st.binary(max_size=8)),
    st.integers(12, 2000).map(lambda number: encode_varint(number << 3 | 5) + b"four"),
    st.integers(12, 2000).map(lambda number: encode_varint(number << 3 | 1) + b"eight888"),
)


# ---- protobuf


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=5))
def test_a_varint_comes_back_and_says_where_it_ends(value, rest):
    encoded = encode_varint(value)
    assert decode_varint(encoded + rest, 0) == (value, len(encoded))
    for cut in range(len(encoded)):
        with pytest.raises(MalformedMessage):
            decode_varint(encoded[:cut], 0)


@settings(max_examples=examples(500))
@given(st.binary(max_size=80))
def test_any_bytes_are_fields_or_malformed(data):
    try:
        found = list(fields(data))
    except MalformedMessage:
        return
    assert sum(len(body) for _, _, body in found) <= len(data)
    assert all(head >> 3 > 0 and 0 <= number < 1 << 64 for head, number, _ in found)


# ---- messages


@every_codec
@settings(max_examples=examples(200))
@given(data=st.data())
def test_a_message_comes_back_as_it_was_and_its_size_is_known(codec, kind, data):
    message = data.draw(messages(kind))
    encoded = codec.encode(message)
    assert codec.decode(encoded) == message
    assert codec.size(message) == len(encoded)


@every_codec
@settings(max_examples=examples(200))
@given(data=st.data())
def test_fields_of_a_newer_version_change_nothing(codec, kind, data):
    message = data.draw(messages(kind))
    before, after = (b"".join(data.draw(st.lists(STRANGE, max_size=3))) for _ in range(2))
    assert codec.decode(before + codec.encode(message) + after) == message


@every_codec
@settings(max_examples=examples(200))
@given(data=st.data())
def test_the_order_of_different_fields_does_not_matter(codec, kind, data):
    message = data.draw(messages(kind))
    by_tag: dict[int, bytes] = {}
    for head, number, body in fields(codec.encode(message)):
        field = bytes_field(head >> 3, body) if head & 7 else varint_field(head >> 3, number)
        by_tag[head] = by_tag.get(head, b"") + field
    assert codec.decode(b"".join(data.draw(st.permutations(list(by_tag.values()))))) == message


@every_codec
@settings(max_examples=examples(400))
@given(data=st.data())
def test_any_bytes_are_a_message_or_malformed(codec, kind, data):
    start = data.draw(st.sampled_from([b"", b"\x08\x04\x42", b"\x1a", b"\x4a\x28\x0a\x26"]))
    try:
        message = codec.decode(start + data.draw(st.binary(max_size=120)))
    except MalformedMessage:
        return
    assert codec.decode(codec.encode(message)) == message


@every_codec
@settings(max_examples=examples(400))
@given(data=st.data())
def test_changed_bytes_are_refused_or_another_message(codec, kind, data):
    changed = data.draw(mutations(codec.encode(data.draw(messages(kind)))))
    try:
        message = codec.decode(changed)
    except MalformedMessage:
        return
    assert codec.decode(codec.encode(message)) == message


@given(messages(KadMessage))
def test_a_dht_message_does_not_depend_on_what_was_seen_before(message):
    codec = KadCodec(KAD_QUIVER)
    warm = codec.encode(message)
    decoded = codec.decode(warm)
    for memo in (kad._encoded, kad._decoded):
        memo.clear()
        memo.held_bytes = 0
    assert codec.encode(message) == warm and codec.decode(warm) == decoded == message


@given(messages(Identify))
def test_the_parts_of_an_answer_are_the_answer(message):
    assert merge(split(message)) == message


# ---- envelopes and records


@given(messages(Envelope))
def test_an_envelope_comes_back(envelope):
    assert decode_envelope(encode_envelope(envelope)) == envelope


@given(RECORDS)
def test_a_signed_record_comes_back(record):
    assert decode_peer_record(encode_peer_record(record)) == record
    assert open_peer_record(seal_peer_record(record, public_key=KEY, sign=KEYS.sign)) == record


@settings(max_examples=examples(400))
@given(RECORDS, st.data())
def test_a_changed_envelope_is_refused_or_says_the_same(record, data):
    changed = data.draw(mutations(seal_peer_record(record, public_key=KEY, sign=KEYS.sign)))
    try:
        assert open_peer_record(changed) == record
    except (MalformedMessage, BadSignature):
        return


@given(st.binary(max_size=120), st.sampled_from([b"", bytes_field(1, KEY) + bytes_field(2, b"\x03\x01")]))
def test_any_bytes_are_refused_as_an_envelope(data, start):
    with pytest.raises((MalformedMessage, BadSignature)):
        open_peer_record(start + data)


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_a_record_or_malformed(data, named):
    try:
        record = decode_peer_record((bytes_field(1, KEYS.peer_id) if named else b"") + data)
    except MalformedMessage:
        return
    assert decode_peer_record(encode_peer_record(record)) == record


# ---- keys and peer ids


@given(st.sampled_from(HostKeyType), st.binary(max_size=300))
def test_a_host_key_comes_back(kind, key):
    if kind is HostKeyType.ED25519:
        key = key[:32].ljust(32, b"\0")
    assert parse_host_key(encode_host_key(kind, key)) == (kind, key)


@settings(max_examples=examples(300))
@given(st.sampled_from(KINDS), st.data())
def test_a_changed_host_key_is_malformed_or_verifies_nothing(kind, data):
    changed = data.draw(mutations(host_key(kind)))
    try:
        found, key = parse_host_key(changed)
        assert encode_host_key(found, key) == changed
        assert not verify_host_signature(changed, b"message", data.draw(st.binary(max_size=80)))
    except MalformedMessage:
        return


@given(PEER_IDS)
def test_a_peer_id_comes_back_from_each_text_form(peer):
    assert check_peer_id(peer) == peer
    for form in (peer_id_text, peer_id_cid, peer_id_cid36):
        assert parse_peer_id(form(peer)) == peer


@given(st.text(st.sampled_from("bkz1Qm2a7f0AK/é"), max_size=140))
def test_any_text_is_a_peer_id_or_malformed(text):
    try:
        peer = parse_peer_id(text)
    except MalformedMessage as error:
        assert "is not a peer id" in str(error)
        return
    assert check_peer_id(peer) == peer


@given(st.binary(min_size=1, max_size=100))
def test_the_peer_id_of_any_key_is_a_peer_id(key):
    assert check_peer_id(compute_host_peer_id(key)) == compute_host_peer_id(key)
