"""Varints and frames: frames come out however the bytes are cut, and what is held is bounded."""

from quiver.errors import MalformedMessage
from quiver.wire.framing import FrameReader, encode_frame

LIMIT = 200
SEEDS = [encode_frame(b"hello") + encode_frame(b""), encode_frame(b"x" * 130), b"\x80\x00", b"\xff" * 10]


def _read(pieces: list[bytes]) -> list[bytes]:
    reader, frames = FrameReader(LIMIT), []
    for piece in pieces:
        try:
            frames += reader.feed(piece)
        except MalformedMessage:
            break
        assert reader.pending_bytes < LIMIT + 2
    return frames


def one_input(data: bytes) -> None:
    frames = _read([data[at : at + 1] for at in range(len(data))])
    assert data.startswith(b"".join(map(encode_frame, frames)))
    whole = _read([data])
    assert whole == frames or not whole
