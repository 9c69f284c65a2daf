"""The protobuf wire format, as little of it as libp2p's messages need (protobuf.dev, encoding).

A reader takes fields in any order, skips those it does not know and misses none. A tag is `field number << 3 | wire type`, so
a known field in another wire type is an unknown one, as in every protobuf. Groups, which proto3 dropped, are refused.
Varints are taken in longer forms too, as protobuf does: where one form only is meant (`identity/host_key`), it is checked there.
"""

from __future__ import annotations

from collections.abc import Iterator

from quiver.errors import MalformedMessage

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# 64 bits, seven a byte.
VARINT_BYTES_MAX = 10
FIELD_NUMBER_MAX = (1 << 29) - 1
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def tag(number: int, wire_type: int) -> int:
    """What stands before a field's value, as an integer."""
    return number << 3 | wire_type


def encode_varint(value: int) -> bytes:
    """Unsigned 64-bit varint in its shortest form."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if not 0 <= value < 1 << 64:
        raise MalformedMessage(f"a protobuf varint holds 0 to 2^64 - 1, not {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, offset: int) -> tuple[int, int]:
    """(value, offset after it); `MalformedMessage` when it is cut or does not fit 64 bits."""
    if offset < len(data) and (value := data[offset]) < 0x80:
        return value, offset + 1
    value = shift = 0
    for position in range(offset, min(len(data), offset + VARINT_BYTES_MAX)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise MalformedMessage("a protobuf varint of more than 64 bits")
            return value, position + 1
        shift += 7
    raise MalformedMessage("a protobuf varint that is cut, or has more than 10 bytes")


def bytes_field(number: int, value: bytes) -> bytes:
    """A length-delimited field: bytes, text in UTF-8, or a message."""
    return encode_varint(number << 3 | BYTES) + encode_varint(len(value)) + value


def varint_field(number: int, value: int) -> bytes:
    """An unsigned integer, boolean or enum."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)


def read_field(data: bytes, offset: int) -> tuple[int, int, bytes, int]:
    """(tag, number, bytes, offset after it) of the field at `offset`: number or bytes is its value. Fixed-width ones are bytes."""
    head, offset = decode_varint(data, offset)
    wire_type = head & 7
    if not 8 <= head < (FIELD_NUMBER_MAX + 1) << 3:
        raise MalformedMessage(f"no protobuf field has the number {head >> 3}")
    if wire_type == BYTES:
        length, offset = decode_varint(data, offset)
    elif wire_type == VARINT:
        value, offset = decode_varint(data, offset)
        return head, value, b"", offset
    elif wire_type in _FIXED_BYTES:
        length = _FIXED_BYTES[wire_type]
    else:
        raise MalformedMessage(f"protobuf field {head >> 3} has wire type {wire_type}, which is not read")
    stop = offset + length
    if stop > len(data):
        raise MalformedMessage(f"protobuf field {head >> 3} says {length} bytes, {len(data) - offset} are left")
    return head, 0, data[offset:stop], stop


def fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(tag, number, bytes) of each field, in the order they came."""
    offset = 0
    while offset < len(data):
        head, number, body, offset = read_field(data, offset)
        yield head, number, body


def decode_text(value: bytes) -> str:
    """UTF-8, as proto3 strings must be."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedMessage("a protobuf string that is not UTF-8") from error
