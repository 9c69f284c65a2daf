"""A yamux session: any bytes are events or end it by name, its books balance, and what it holds is bounded."""

from quiver.wire.yamux import CONTROL_BYTES_MAX, OUTPUT_BYTES_MAX, YamuxSession
from quiver.wire.yamux_events import DataReceived, SessionEnded, StreamOpened
from quiver.wire.yamux_frame import encode_header

SEEDS = [
    encode_header(1, 1, 1, 0) + encode_header(0, 0, 1, 5) + b"hello" + encode_header(1, 4, 1, 0),
    encode_header(0, 5, 3, 2) + b"hi" + encode_header(2, 1, 0, 7) + encode_header(1, 8, 3, 0x1001),
    b"\xff" + (encode_header(1, 1, 1, 0) + encode_header(1, 8, 1, 0)) * 2,
    encode_header(1, 2, 2, 1 << 18) + encode_header(0, 0, 2, 1) + b"x" + encode_header(3, 0, 0, 0),
]


def one_input(data: bytes) -> None:
    session = YamuxSession(is_dialer=False, streams_max=4, unread_bytes_max=1000)
    session.open()
    session.write(2, b"ours")
    # The first byte says how the rest is cut.
    size = 1 + (data[0] if data else 0)
    for at in range(1, len(data), size):
        for event in session.receive(data[at : at + size]):
            if isinstance(event, StreamOpened) and event.stream_id % 4 == 1:
                session.write(event.stream_id, b"answer")
                session.finish(event.stream_id)
            elif isinstance(event, DataReceived) and event.stream_id % 4 == 1:
                session.consume(event.stream_id, len(event.data))
            elif isinstance(event, SessionEnded):
                assert event.reason
        session.validate()
        assert session.streams_open <= 5
        assert len(session.data_to_send()) <= OUTPUT_BYTES_MAX + CONTROL_BYTES_MAX
