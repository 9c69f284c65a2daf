"""The protobuf reader: any bytes are fields or malformed."""

from quiver.errors import MalformedMessage
from quiver.wire.protobuf import bytes_field, fields, varint_field

SEEDS = [b"", varint_field(1, 150), bytes_field(2, b"testing") + b"\x0d1234" + b"\x1112345678", b"\xff" * 12]


def one_input(data: bytes) -> None:
    try:
        found = list(fields(data))
    except MalformedMessage:
        return
    assert sum(len(body) for _, _, body in found) <= len(data)
