"""identify: bytes by hand, fields as others order them, several messages merged, limits."""

from __future__ import annotations

import pytest

from quiver.errors import MalformedMessage
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key
from quiver.values.identify import Identify
from quiver.wire.identify import (
    ADDRESSES_MAX,
    IDENTIFY,
    IDENTIFY_PUSH,
    MESSAGE_BYTES_MAX,
    MESSAGES_MAX,
    PROTOCOLS_MAX,
    IdentifyCodec,
    merge,
    split,
)
from quiver.wire.protobuf import bytes_field, varint_field

CODEC = IdentifyCodec(IDENTIFY)
KEY = encode_public_key(KeyPair(b"\x01" * 32).public_key)
ADDRESS = bytes.fromhex("047f00000191020fa1cd03")


def test_the_bytes_by_hand():
    message = Identify(
        public_key=KEY,
        listen_addresses=(ADDRESS, b"\x04"),
        protocols=("/a", "/b"),
        observed_address=ADDRESS,
        protocol_version="ipfs/0.1.0",
        agent_version="q",
        signed_peer_record=b"env",
    )
    data = (
        "0a24" + KEY.hex() + "120b" + ADDRESS.hex() + "120104" + "1a022f61" + "1a022f62" + "220b" + ADDRESS.hex()
        + "2a0a" + b"ipfs/0.1.0".hex() + "320171" + "4203656e76"
    )  # fmt: skip
    assert CODEC.encode(message).hex() == data
    assert CODEC.decode(bytes.fromhex(data)) == message
    assert CODEC.size(message) == len(data) // 2


def test_nothing_said_and_an_empty_text_are_two_things():
    assert CODEC.encode(Identify()) == b"" and CODEC.decode(b"") == Identify()
    assert CODEC.encode(Identify(agent_version="")).hex() == "3200"
    assert CODEC.decode(bytes.fromhex("3200")) == Identify(agent_version="")


def test_the_order_of_js_libp2p_and_unknown_fields_are_read():
    # js sends 5, 6, 1, 2, 4, 3, 8.
    data = b"".join(
        (
            bytes_field(5, b"ipfs/0.1.0"), bytes_field(6, b"js-libp2p/3"), bytes_field(1, KEY), bytes_field(2, ADDRESS),
            bytes_field(4, b"\x04"), bytes_field(3, b"/b"), bytes_field(3, b"/a"), bytes_field(8, b"env"),
            varint_field(7, 1), varint_field(3, 1), bytes_field(99, b"?"),
        )
    )  # fmt: skip
    assert CODEC.decode(data) == Identify(
        public_key=KEY, listen_addresses=(ADDRESS,), protocols=("/b", "/a"), observed_address=b"\x04",
        protocol_version="ipfs/0.1.0", agent_version="js-libp2p/3", signed_peer_record=b"env",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "why"),
    [("0a", "cut"), ("1a01ff", "UTF-8"), ("2a01ff", "UTF-8"), ("3201ff", "UTF-8"), ("0a0561", "5 bytes, 1 are left")],
)
def test_bytes_that_are_no_message_say_why(data, why):
    with pytest.raises(MalformedMessage, match=f"{IDENTIFY_PUSH}: .*{why}"):
        IdentifyCodec(IDENTIFY_PUSH).decode(bytes.fromhex(data))


def test_an_oversized_message_is_neither_read_nor_sent():
    with pytest.raises(MalformedMessage, match="8195 bytes; at most 8192 may be sent"):
        CODEC.encode(Identify(signed_peer_record=bytes(MESSAGE_BYTES_MAX)))
    with pytest.raises(MalformedMessage, match="8193 bytes; at most 8192 are read"):
        CODEC.decode(bytes(MESSAGE_BYTES_MAX + 1))


def test_several_messages_are_one_answer():
    first = Identify(public_key=KEY, protocols=("/a",), agent_version="old", protocol_version="v")
    second = Identify(protocols=("/b",), listen_addresses=(ADDRESS,), agent_version="new", signed_peer_record=b"env")
    assert merge([first, second]) == Identify(
        public_key=KEY, protocols=("/a", "/b"), listen_addresses=(ADDRESS,), agent_version="new",
        protocol_version="v", signed_peer_record=b"env",
    )  # fmt: skip
    assert merge([]) == Identify()


def test_a_peer_makes_us_remember_only_so_much():
    merge([Identify()] * MESSAGES_MAX)
    with pytest.raises(MalformedMessage, match="11 identify messages; at most 10"):
        merge([Identify()] * (MESSAGES_MAX + 1))
    for field, limit in ((2, ADDRESSES_MAX), (3, PROTOCOLS_MAX)):
        half = CODEC.decode(bytes_field(field, b"") * limit)
        with pytest.raises(MalformedMessage, match="at most 256 and 1024"):
            CODEC.decode(bytes_field(field, b"") * (limit + 1))
        with pytest.raises(MalformedMessage, match="at most 256 and 1024"):
            merge([half, half])


def test_a_long_answer_goes_as_two_messages_and_comes_back_as_one():
    short = Identify(protocols=("/a",), signed_peer_record=bytes(5000))
    assert split(short) == [short]
    long = Identify(protocols=("/" + "a" * 3000,), signed_peer_record=bytes(6000))
    parts = split(long)
    assert [len(CODEC.encode(part)) for part in parts] == [3004, 6003]
    assert merge([CODEC.decode(CODEC.encode(part)) for part in parts]) == long
    with pytest.raises(MalformedMessage):
        CODEC.encode(long)
