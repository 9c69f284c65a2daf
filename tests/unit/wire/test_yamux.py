"""yamux by hand: the bytes of the specification, credit, limits, and what ends a session."""

from __future__ import annotations

import pytest

from quiver.errors import Busy, PeerUnreachable, UsageError, WireCode
from quiver.wire.yamux import BACKLOG_MAX, CONTROL_BYTES_MAX, OUTPUT_BYTES_MAX, PINGS_MAX, YamuxSession
from quiver.wire.yamux_events import (
    CreditReceived,
    DataReceived,
    PongReceived,
    SessionEnded,
    StreamAborted,
    StreamEnded,
    StreamOpened,
    StreamRefused,
)
from quiver.wire.yamux_frame import encode_header
from quiver.wire.yamux_stream import INITIAL_WINDOW_BYTES

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def listener(**limits):
    return YamuxSession(is_dialer=False, **limits)


def dialer(**limits):
    return YamuxSession(is_dialer=True, **limits)


def frame(kind, flags, stream_id, length, payload=b""):
    return encode_header(kind, flags, stream_id, length) + payload


def data(stream_id, payload, flags=0):
    return frame(DATA, flags, stream_id, len(payload), payload)


def exchange(one, other):
    """Carry bytes both ways until both are silent; the events of (one, other)."""
    seen = ([], [])
    while (there := one.data_to_send()) or (back := other.data_to_send()):
        if there:
            seen[1].extend(other.receive(there))
        else:
            seen[0].extend(one.receive(back))
        one.validate()
        other.validate()
    return seen


# ---- the bytes


def test_a_header_is_version_type_flags_stream_length():
    assert frame(WINDOW, SYN, 1, 0).hex() == "00010001" + "00000001" + "00000000"


def test_a_stream_from_opening_to_both_ends():
    ours, theirs = dialer(), listener()
    assert ours.open() == 1
    assert ours.write(1, b"ask") == 3
    sent = ours.data_to_send()
    assert sent.hex() == "000100010000000100000000" + "000000000000000100000003" + b"ask".hex()
    assert theirs.receive(sent) == [StreamOpened(1), DataReceived(1, b"ask")]
    assert theirs.write(1, b"answer") == 6
    theirs.finish(1)
    reply = theirs.data_to_send()
    # ACK, the bytes, FIN
    assert reply.hex() == (
        "000100020000000100000000" + "000000000000000100000006" + b"answer".hex() + "000100040000000100000000"
    )
    assert ours.receive(reply) == [DataReceived(1, b"answer"), StreamEnded(1)]
    ours.finish(1)
    assert exchange(ours, theirs) == ([], [StreamEnded(1)])
    assert (ours.streams_open, theirs.streams_open) == (0, 0)


def test_each_side_opens_its_own_ids():
    one, other = dialer(), listener()
    assert [one.open(), one.open(), other.open(), other.open()] == [1, 3, 2, 4]


def test_bytes_may_be_cut_anywhere():
    session = listener()
    whole = frame(WINDOW, SYN, 1, 0) + data(1, b"hello", FIN)
    events = [event for byte in whole for event in session.receive(bytes((byte,)))]
    assert events[0] == StreamOpened(1) and events[-1] == StreamEnded(1)
    assert b"".join(event.data for event in events[1:-1]) == b"hello"


def test_a_stream_may_be_opened_and_ended_by_its_only_frame():
    assert listener().receive(data(1, b"all", SYN | FIN)) == [
        StreamOpened(1),
        DataReceived(1, b"all"),
        StreamEnded(1),
    ]


def test_a_large_write_is_cut_into_frames_of_64_kib():
    session = dialer()
    session.open()
    assert session.write(1, bytes(100_000)) == 100_000
    sent = session.data_to_send()
    assert sent[12:24] == frame(DATA, 0, 1, 65536)
    assert sent[24 + 65536 :][:12] == frame(DATA, 0, 1, 100_000 - 65536)


def test_a_larger_frame_is_read():
    payload = bytes(INITIAL_WINDOW_BYTES)
    assert listener().receive(data(1, payload, SYN)) == [StreamOpened(1), DataReceived(1, payload)]


# ---- credit


def test_a_writer_stops_at_the_window_and_goes_on_when_half_of_it_was_read():
    ours, theirs = dialer(), listener()
    ours.open()
    assert ours.write(1, bytes(INITIAL_WINDOW_BYTES + 1)) == INITIAL_WINDOW_BYTES
    assert ours.write(1, b"x") == 0
    exchange(ours, theirs)
    theirs.consume(1, INITIAL_WINDOW_BYTES // 2 - 1)
    assert theirs.data_to_send() == b""
    theirs.consume(1, 1)
    update = theirs.data_to_send()
    assert update == frame(WINDOW, 0, 1, INITIAL_WINDOW_BYTES // 2)
    assert ours.receive(update) == [CreditReceived(1)]
    assert ours.write(1, bytes(INITIAL_WINDOW_BYTES)) == INITIAL_WINDOW_BYTES // 2


def test_credit_for_a_writer_that_does_not_wait_is_no_event():
    session = dialer()
    session.open()
    session.write(1, b"x")
    assert session.receive(frame(WINDOW, ACK, 1, 5)) == []


def test_a_larger_window_is_told_with_the_first_frame():
    ours, theirs = dialer(window_bytes=1024 * 1024), listener(window_bytes=512 * 1024)
    ours.open()
    assert ours.data_to_send() == frame(WINDOW, SYN, 1, 768 * 1024)
    theirs.receive(frame(WINDOW, SYN, 1, 768 * 1024))
    theirs.accept(1)
    theirs.accept(1)
    assert theirs.data_to_send() == frame(WINDOW, ACK, 1, 256 * 1024)
    ours.receive(frame(WINDOW, ACK, 1, 256 * 1024))
    assert ours.write(1, bytes(1024 * 1024)) == 512 * 1024
    assert theirs.write(1, bytes(2 * 1024 * 1024)) == 1024 * 1024


@pytest.mark.parametrize("window_bytes", [INITIAL_WINDOW_BYTES - 1, 16 * 1024 * 1024 + 1])
def test_a_window_has_bounds(window_bytes):
    with pytest.raises(UsageError, match="256 KiB to 16 MiB"):
        dialer(window_bytes=window_bytes)


def test_our_own_buffer_has_an_end_and_room_again_when_it_was_taken():
    session = dialer()
    ids = [session.open() for _ in range(8)]
    session.receive(b"".join(frame(WINDOW, ACK, stream_id, 1 << 24) for stream_id in ids))
    taken = [session.write(stream_id, bytes(300_000)) for stream_id in ids]
    assert taken[:3] == [300_000] * 3 and 0 < taken[3] < 300_000 and taken[4:] == [0] * 4
    assert OUTPUT_BYTES_MAX <= len(session.data_to_send()) < OUTPUT_BYTES_MAX + 1000
    assert session.write(ids[7], bytes(300_000)) == 300_000


def test_too_much_unread_on_all_streams_together_resets_the_one_that_is_too_much():
    session = listener(unread_bytes_max=300)
    session.receive(data(1, bytes(200), SYN))
    assert session.receive(data(3, bytes(101), SYN) + data(5, b"fine", SYN)) == [
        StreamOpened(3),
        StreamRefused(3, is_new=False),
        StreamAborted(3, WireCode.RESOURCE_LIMIT),
        StreamOpened(5),
        DataReceived(5, b"fine"),
    ]
    assert session.data_to_send() == frame(WINDOW, RST, 3, 0x1002)
    session.validate()
    session.consume(1, 200)
    assert session.unread_bytes == 4


def test_a_stream_that_is_over_still_counts_until_it_is_read():
    session = listener(unread_bytes_max=300)
    session.receive(data(1, bytes(200), SYN | FIN))
    session.finish(1)
    assert (session.streams_open, session.unread_bytes) == (0, 200)
    session.consume(1, 150)
    session.consume(1, 1000)
    assert session.unread_bytes == 0


def test_who_stops_reading_gives_no_credit_and_hears_only_the_end():
    ours, theirs = dialer(), listener()
    ours.open()
    ours.write(1, b"early")
    exchange(ours, theirs)
    theirs.stop_reading(1)
    assert theirs.unread_bytes == 0
    assert ours.write(1, bytes(INITIAL_WINDOW_BYTES)) == INITIAL_WINDOW_BYTES - 5
    theirs.write(1, b"answer")
    ours.finish(1)
    assert exchange(ours, theirs) == ([DataReceived(1, b"answer")], [StreamEnded(1)])


# ---- resets, pings, ends


def test_a_reset_carries_its_code_and_ends_both_directions():
    ours, theirs = dialer(), listener()
    ours.open()
    ours.write(1, b"x")
    exchange(ours, theirs)
    theirs.reset(1, WireCode.NEGOTIATION_FAILED)
    theirs.reset(1, WireCode.NEGOTIATION_FAILED)
    assert theirs.unread_bytes == 0
    assert exchange(ours, theirs) == ([StreamAborted(1, 0x1001)], [])
    # What was on its way is dropped on both sides.
    assert ours.write(1, b"late") == 4 and ours.data_to_send() == b""
    assert theirs.receive(data(1, b"late")) == []
    ours.finish(1)
    ours.consume(1, 5)
    ours.stop_reading(1)
    assert ours.data_to_send() == b""


def test_a_reset_inside_a_payload_swallows_the_rest_of_it():
    session = listener()
    whole = data(1, b"abcdef", SYN)
    assert session.receive(whole[:-3]) == [StreamOpened(1), DataReceived(1, b"abc")]
    session.reset(1, 0)
    assert session.receive(whole[-3:] + data(3, b"next", SYN)) == [StreamOpened(3), DataReceived(3, b"next")]


def test_a_reset_with_data_has_no_code_and_its_payload_is_swallowed():
    session = listener()
    session.receive(data(1, b"a", SYN))
    assert session.receive(data(1, b"b", RST) + frame(PING, SYN, 0, 7)) == [StreamAborted(1, 0)]
    assert session.data_to_send() == frame(PING, ACK, 0, 7)


def test_frames_for_unknown_streams_are_ignored():
    session = listener()
    assert session.receive(data(9, b"x") + frame(WINDOW, 0, 9, 5) + frame(WINDOW, RST, 9, 5) + data(9, b"", FIN)) == []
    assert session.ending is None and session.data_to_send() == b""


def test_pings_both_ways():
    ours, theirs = dialer(), listener()
    assert [ours.ping(), ours.ping()] == [0, 1]
    assert exchange(ours, theirs) == ([PongReceived(0), PongReceived(1)], [])
    assert ours.receive(frame(PING, ACK, 0, 1)) == []
    for _ in range(PINGS_MAX):
        ours.ping()
    with pytest.raises(UsageError, match="8 yamux pings"):
        ours.ping()


def test_bytes_after_the_end_of_a_stream_are_a_mistake_of_ours():
    session = dialer()
    session.open()
    session.finish(1)
    session.finish(1)
    with pytest.raises(UsageError, match="stream 1"):
        session.write(1, b"x")


def test_going_away_ends_every_stream():
    ours, theirs = dialer(), listener()
    ours.open()
    exchange(ours, theirs)
    ours.close()
    ours.close()
    sent = ours.data_to_send()
    assert sent == frame(GO_AWAY, 0, 0, 0)
    assert theirs.receive(sent + frame(WINDOW, SYN, 3, 0)) == [
        StreamAborted(1, WireCode.SHUTDOWN),
        SessionEnded(0, "the peer went away with code 0", True),
    ]
    assert theirs.data_to_send() == b"" and theirs.receive(frame(WINDOW, SYN, 3, 0)) == []
    for act in (ours.open, ours.ping, theirs.open):
        with pytest.raises(PeerUnreachable, match="ended"):
            act()


def test_the_end_of_the_connection_ends_the_session():
    session = listener()
    session.receive(data(1, b"x", SYN))
    assert session.end_of_input() == [
        StreamAborted(1, WireCode.SHUTDOWN),
        SessionEnded(0, "the connection was lost", True),
    ]
    assert session.end_of_input() == [] and session.data_to_send() == b"" and session.unread_bytes == 0


# ---- limits


def test_our_streams_wait_for_acknowledgement():
    session = dialer(streams_max=1000)
    for _ in range(BACKLOG_MAX):
        session.open()
    with pytest.raises(Busy, match="256 streams wait"):
        session.open()
    session.receive(frame(WINDOW, ACK, 1, 0))
    session.receive(frame(WINDOW, RST, 3, 0))
    assert [session.open(), session.open()] == [513, 515]
    with pytest.raises(Busy):
        session.open()
    session.reset(5, 0)
    session.open()
    session.validate()


def test_we_open_no_more_than_our_limit():
    session = dialer(streams_max=1)
    session.open()
    with pytest.raises(Busy, match="1 streams of ours"):
        session.open()


def test_a_stream_beyond_the_limit_is_refused_and_its_payload_swallowed():
    session = listener(streams_max=1)
    assert session.receive(data(1, b"a", SYN) + data(3, b"b", SYN) + data(1, b"c")) == [
        StreamOpened(1),
        DataReceived(1, b"a"),
        StreamRefused(3, is_new=True),
        DataReceived(1, b"c"),
    ]
    assert session.data_to_send() == frame(WINDOW, RST, 3, 0x1002)


def test_a_peer_that_asks_and_does_not_read_is_left():
    session, asked = listener(), frame(PING, SYN, 0, 0) * 4096
    ended = []
    for _ in range(100):
        ended = session.receive(asked)
        if ended:
            break
    assert ended == [SessionEnded(2, "the peer makes us answer and does not read", False)]
    assert len(session.data_to_send()) < OUTPUT_BYTES_MAX + CONTROL_BYTES_MAX + len(asked) + 12


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"\x01" + bytes(11), "yamux version 1"),
        (frame(4, 0, 0, 0), "type 4"),
        (frame(DATA, SYN, 0, 0), "type 0 for stream 0"),
        (frame(WINDOW, 0, 0, 0), "type 1 for stream 0"),
        (frame(PING, SYN, 1, 0), "type 2 for stream 1"),
        (frame(GO_AWAY, 0, 1, 0), "type 3 for stream 1"),
        (frame(WINDOW, SYN, 2, 0), "stream 2 is ours"),
        (frame(WINDOW, SYN, 1, 0) * 2, "stream 1 was opened twice"),
        (frame(DATA, SYN, 1, INITIAL_WINDOW_BYTES + 1), "262145 bytes where 262144 may come"),
        (data(1, bytes(INITIAL_WINDOW_BYTES), SYN) + frame(DATA, 0, 1, 1), "1 bytes where 0 may come"),
        (data(1, b"x", SYN | FIN) + data(1, b"x"), "1 bytes where 0 may come"),
        (frame(DATA, 0, 9, 16 * 1024 * 1024 + 1), "stream 9: 16777217 bytes"),
    ],
)
def test_a_peer_that_breaks_a_rule_ends_the_session_and_the_rule_is_named(broken, why):
    session = listener()
    *_, last = session.receive(broken + frame(PING, SYN, 0, 0))
    assert isinstance(last, SessionEnded) and why in last.reason and (last.code, last.by_peer) == (1, False)
    assert session.data_to_send() == frame(GO_AWAY, 0, 0, 1)
    assert session.streams_open == session.unread_bytes == 0
    session.validate()


def test_an_id_has_no_second_life_before_anybody_has_heard_of_the_end_of_the_first():
    """The events of the first would be taken for the second's: found by fuzzing."""
    session = listener()
    *_, ended = session.receive((frame(WINDOW, SYN, 1, 0) + frame(WINDOW, RST, 1, 0)) * 2)
    assert "stream 1 was opened twice" in ended.reason
    session.validate()


def test_an_id_whose_bytes_are_still_unread_is_not_opened_again():
    session = listener()
    session.receive(data(1, b"x", SYN | FIN))
    session.finish(1)
    (ended,) = session.receive(frame(WINDOW, SYN, 1, 0))
    assert "opened twice" in ended.reason
