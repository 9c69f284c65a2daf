"""The protobuf wire format: the examples of its documentation, and bytes that are no message."""

from __future__ import annotations

import pytest

from quiver.errors import MalformedMessage
from quiver.wire.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    bytes_field,
    decode_text,
    decode_varint,
    encode_varint,
    fields,
    tag,
    varint_field,
)


def test_the_examples_of_the_documentation():
    # protobuf.dev, encoding: Test1 { a: 150 } and Test2 { b: "testing" }.
    assert varint_field(1, 150).hex() == "089601"
    assert bytes_field(2, b"testing").hex() == "120774657374696e67"
    assert list(fields(bytes.fromhex("089601120774657374696e67"))) == [
        (tag(1, VARINT), 150, b""),
        (tag(2, BYTES), 0, b"testing"),
    ]


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (127, "7f"), (128, "8001"), (16384, "808001"), ((1 << 64) - 1, "ff" * 9 + "01")],
)
def test_varints_of_every_length(value, encoded):
    assert encode_varint(value).hex() == encoded
    assert decode_varint(bytes.fromhex(encoded), 0) == (value, len(encoded) // 2)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_numbers_beyond_64_bits_are_not_written(value):
    with pytest.raises(MalformedMessage):
        encode_varint(value)


def test_a_longer_form_of_a_varint_is_read_as_protobuf_does():
    assert decode_varint(b"\x81\x80\x00", 0) == (1, 3)


def test_fixed_width_fields_are_raw_bytes_and_nothing_after_them_is_lost():
    data = bytes.fromhex("0d01020304" + "1101020304050607081801")
    assert list(fields(data)) == [
        (tag(1, FIXED32), 0, b"\x01\x02\x03\x04"),
        (tag(2, FIXED64), 0, bytes(range(1, 9))),
        (tag(3, VARINT), 1, b""),
    ]


def test_a_field_number_may_take_five_bytes():
    number = (1 << 29) - 1
    assert list(fields(varint_field(number, 7))) == [(tag(number, VARINT), 7, b"")]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("08", "cut"),  # a tag alone
        ("0880", "cut"),  # half a varint
        ("12", "cut"),  # no length
        ("120361", "3 bytes, 1 are left"),
        ("0d010203", "4 bytes, 3 are left"),
        ("1101", "8 bytes, 1 are left"),
        ("00", "number 0"),
        ("0200", "number 0"),
        ("0b", "wire type 3"),  # a group
        ("0c", "wire type 4"),
        ("0e00", "wire type 6"),
        ("0f00", "wire type 7"),
        ("8080808010" + "00", "number 536870912"),
        ("08" + "ff" * 10, "10 bytes"),
        ("08" + "ff" * 9 + "02", "64 bits"),
        ("12" + "ff" * 9 + "01", "18446744073709551615 bytes"),
    ],
)
def test_bytes_that_are_no_message_say_why(data, why):
    with pytest.raises(MalformedMessage, match=why):
        list(fields(bytes.fromhex(data)))


def test_text_is_utf8():
    assert decode_text("é".encode()) == "é"
    with pytest.raises(MalformedMessage, match="UTF-8"):
        decode_text(b"\xff")
