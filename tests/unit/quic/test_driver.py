"""Streams of one connection: frames, credit, ends, resets, deadlines. Both ends are real drivers; time is by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import StreamReset, WireCode
from quiver.quic.driver import KEEPALIVE_S, SILENT_S
from quiver.quic.limits import Limits
from quiver.quic.streams import FRAME_COST_BYTES, NEGOTIATION_TIMEOUT_S
from quiver.wire.framing import encode_frame
from quiver.wire.multistream import encode_proposal
from tests.examples import examples
from tests.unit.quic.pair import FRAME_MAX, FRAMING, PROTOCOL, Pair, Terminated

WINDOW = 16 * 1024
SMALL = Limits(stream_window_bytes=WINDOW, connection_window_bytes=8 * WINDOW, streams_max=4)


def drain(driver, stream):
    frames = []
    while (frame := driver.read(stream)) is not None:
        frames.append(frame)
    return frames


def test_header_proposal_and_first_frame_leave_in_one_datagram():
    pair = Pair().run()
    stream = pair.client.open(PROTOCOL, FRAMING)
    pair.client.write(stream, b"question")
    assert len(pair.client.datagrams_to_send(pair.now)) == 1


def test_a_question_and_its_answer_take_one_round_trip():
    pair = Pair(delay_s=0.05).run()
    mine = pair.client.open(PROTOCOL, FRAMING)
    pair.client.write(mine, b"question")
    pair.run(0.051)
    theirs = pair.opened()[0]
    assert drain(pair.server, theirs) == [b"question"]
    pair.server.write_last(theirs, b"answer")
    pair.run(0.051)
    assert drain(pair.client, mine) == [b"answer"] and mine.has_ended


@settings(max_examples=examples(15), deadline=None)
@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=15), lost=st.sets(st.integers(0, 40), max_size=6))
def test_frames_arrive_whole_and_in_order_whatever_is_lost(sizes, lost):
    pair = Pair().run()
    numbers = iter(range(10_000))
    pair.is_lost = lambda data: next(numbers) in lost
    mine = pair.client.open(PROTOCOL, FRAMING)
    sent = [bytes([position]) * size for position, size in enumerate(sizes)]
    for frame in sent:
        pair.client.write(mine, frame)
    pair.client.finish(mine)
    pair.run(20.0)
    theirs = pair.opened()[0]
    assert drain(pair.server, theirs) == sent and theirs.has_ended


def test_an_unread_stream_stops_its_sender_at_the_window_and_reading_lets_it_go_on():
    pair = Pair(limits=SMALL).run()
    mine, theirs = pair.stream()
    written = 0
    for _ in range(100):
        while pair.client.may_write(mine):
            pair.client.write(mine, b"x" * 1000)
            written += 1
        pair.run(0.1)
    held = sum(len(frame) for frame in theirs.frames)
    # What is unread never exceeds the window; the sender holds at most another window and the frame that crossed it.
    assert WINDOW / 2 < held <= WINDOW
    assert written * 1000 <= 2 * WINDOW + 2000
    assert pair.quics[1]._local_max_data.value == 8 * WINDOW, "nothing was read: the connection's credit stands still"
    received = 0
    for _ in range(100):
        received += len(drain(pair.server, theirs))
        pair.run(0.1)
        while pair.client.may_write(mine) and written < 200:
            pair.client.write(mine, b"x" * 1000)
            written += 1
    assert received == written == 200


def test_a_frame_larger_than_the_window_passes():
    pair = Pair(limits=SMALL).run()
    mine, theirs = pair.stream()
    pair.client.write(mine, b"y" * (4 * WINDOW))
    pair.run(2.0)
    assert [len(frame) for frame in drain(pair.server, theirs)] == [4 * WINDOW]


def test_unread_streams_together_stay_within_the_connections_window():
    pair = Pair(limits=Limits(stream_window_bytes=WINDOW, connection_window_bytes=2 * WINDOW, streams_max=8)).run()
    streams = [pair.client.open(PROTOCOL, FRAMING) for _ in range(6)]
    for stream in streams:
        for _ in range(16):
            pair.client.write(stream, b"x" * 1000)
    pair.run(3.0)
    held = sum(len(frame) for stream in pair.opened() for frame in stream.frames)
    assert WINDOW < held <= 2 * WINDOW
    # Streams that are given up pay their bytes back: the others go on.
    for stream in pair.opened()[:3]:
        pair.server.reset(stream, 1)
    received = 0
    for _ in range(40):
        for stream in pair.opened()[3:]:
            received += len(drain(pair.server, stream))
        pair.run(0.1)
    assert received == 3 * 16


def test_a_finished_side_says_no_more_and_the_other_goes_on():
    pair = Pair().run()
    mine, theirs = pair.stream()
    pair.client.finish(mine)
    pair.client.finish(mine)
    pair.run(0.1)
    assert theirs.has_ended and not mine.has_ended
    pair.server.write(theirs, b"late")
    pair.server.finish(theirs)
    pair.run(0.1)
    assert drain(pair.client, mine) == [b"late"] and mine.has_ended
    assert pair.client.streams_open == pair.server.streams_open == 0


def test_a_reset_ends_both_directions_at_both_ends_with_its_code():
    pair = Pair().run()
    mine, theirs = pair.stream()
    pair.client.reset(mine, 0x2007)
    pair.client.reset(mine, 0x2008)
    pair.run(0.1)
    for driver, stream in ((pair.client, mine), (pair.server, theirs)):
        assert (stream.read_code, stream.write_code) == (0x2007, 0x2007)
        assert driver.streams_open == 0
        with pytest.raises(StreamReset) as caught:
            driver.write(stream, b"x")
        assert caught.value.code == 0x2007


def test_a_reset_drops_what_was_not_read():
    pair = Pair().run()
    mine, theirs = pair.stream()
    pair.client.write(mine, b"x")
    pair.run(0.1)
    assert len(theirs.frames) == 1
    pair.client.reset(mine, 5)
    pair.run(0.1)
    assert pair.server.read(theirs) is None


@pytest.mark.parametrize("give_up", ["reset", "abandon"])
def test_frames_of_a_complete_stream_that_nobody_reads_are_dropped_when_it_is_given_up(give_up):
    pair = Pair().run()
    mine, theirs = pair.stream()
    pair.client.write(mine, b"x" * 1000)
    pair.client.finish(mine)
    pair.server.finish(theirs)
    pair.run(0.1)
    assert pair.server.streams_open == 0 and pair.quics[1]._unread_total == 1000 + FRAME_COST_BYTES
    pair.server.reset(theirs, 1) if give_up == "reset" else pair.server.abandon(theirs)
    assert pair.server.read(theirs) is None and pair.quics[1]._unread_total == 0


def test_a_reader_that_gives_up_stops_the_peers_writing_only():
    pair = Pair().run()
    mine, theirs = pair.stream()
    pair.server.abandon(theirs)
    pair.run(0.1)
    assert mine.write_code == WireCode.NONE and mine.read_code is None
    pair.server.write(theirs, b"still here")
    pair.run(0.1)
    assert drain(pair.client, mine) == [b"still here"]


def test_a_protocol_nobody_serves_resets_the_stream_with_its_code():
    pair = Pair().run()
    stream = pair.client.open("/unknown/1.0.0", FRAMING)
    pair.client.write(stream, b"question")
    pair.run(0.5)
    assert stream.read_code == WireCode.NEGOTIATION_FAILED
    assert pair.client.streams_open == pair.server.streams_open == 0


def test_a_reset_without_a_code_refuses_the_protocol_as_long_as_none_is_agreed():
    pair = Pair().run()
    mine = pair.client.open(PROTOCOL, FRAMING)
    pair.client.write(mine, b"question")
    pair.flush()
    # What the listener says of the protocol is lost, and after a reset it is not sent again.
    pair.is_lost = lambda data: True
    pair.run(0.02)
    pair.is_lost = lambda data: False
    pair.server.reset(pair.opened()[-1], WireCode.NONE)
    pair.run(0.5)
    assert mine.read_code == WireCode.NEGOTIATION_FAILED
    mine, theirs = pair.stream()
    pair.server.reset(theirs, WireCode.NONE)
    pair.run(0.5)
    assert mine.read_code == WireCode.NONE


@pytest.mark.parametrize(
    ("data", "ends"),
    [
        (encode_proposal(PROTOCOL) + encode_frame(b"x" * (FRAME_MAX + 1))[:10], False),
        (encode_proposal(PROTOCOL) + encode_frame(b"whole") + b"\x05cut", True),
        (encode_proposal(PROTOCOL)[:10], True),
        (b"GET / HTTP/1.1\r\nHost: node.example\r\nUser-Agent: somebody/1.0\r\nAccept: */*\r\n\r\n", False),
    ],
    ids=["frame too long", "end inside a frame", "end inside the proposal", "not multistream"],
)
def test_bytes_that_break_the_framing_reset_the_stream_only(data, ends):
    pair = Pair().run()
    pair.quics[0].send_stream_data(0, data, end_stream=ends)
    pair.run(0.5)
    assert pair.server.streams_open == 0
    assert not pair.closed(pair.client) and not pair.closed(pair.server)
    mine = pair.client.open(PROTOCOL, FRAMING)
    pair.run(0.5)
    theirs = pair.opened()[-1]
    pair.client.write(mine, b"fine")
    pair.run(0.5)
    assert drain(pair.server, theirs) == [b"fine"]


def test_a_stream_that_never_names_its_protocol_is_given_up():
    pair = Pair().run()
    pair.quics[0].send_stream_data(0, encode_proposal(PROTOCOL)[:5])
    pair.run(NEGOTIATION_TIMEOUT_S - 0.1)
    assert pair.server.streams_open == 1
    pair.run(0.3)
    assert pair.server.streams_open == 0


def test_streams_beyond_the_peers_limit_wait_and_finished_ones_make_room():
    pair = Pair(limits=SMALL).run()
    streams = [pair.client.open(PROTOCOL, FRAMING) for _ in range(6)]
    for stream in streams:
        pair.client.write(stream, b"question")
        pair.client.finish(stream)
    pair.run(0.5)
    assert len(pair.opened()) == 4
    for _ in range(3):
        for stream in pair.opened():
            pair.server.finish(stream)
        pair.run(0.5)
    assert len(pair.opened()) == 6


def test_a_silent_peer_is_given_up_after_the_idle_timeout():
    limits = Limits(idle_timeout_s=5.0)
    pair = Pair(limits=limits).run()
    mine, _ = pair.stream()
    pair.is_lost = lambda data: True
    pair.run(4.0)
    assert not pair.closed(pair.client)
    pair.run(20.0)
    assert len(pair.closed(pair.client)) == 1 and pair.of(pair.client, Terminated)
    assert mine.read_code == WireCode.NONE


def test_a_peer_that_answers_nothing_for_a_while_is_silent_until_it_does():
    pair = Pair().run()
    pair.is_lost = lambda data: True
    pair.client.write_last(pair.client.open(PROTOCOL, FRAMING), b"?")
    # A stop shorter than this is nothing: the peer may be busy.
    assert not pair.run(SILENT_S - 0.1).client.is_silent
    assert pair.run(3.0).client.is_silent and not pair.client.is_closed
    pair.is_lost = lambda data: False
    assert not pair.run(5.0).client.is_silent


def test_a_peer_with_nothing_to_answer_is_not_silent():
    pair = Pair().run()
    assert not pair.run(20.0).client.is_silent
    pair.client.probe(pair.now)
    assert not pair.run(5.0).client.is_silent


def test_an_open_stream_keeps_a_quiet_connection_alive_and_without_one_it_ends():
    pair = Pair(limits=Limits(idle_timeout_s=10.0)).run()
    mine, theirs = pair.stream()
    pair.run(10 * KEEPALIVE_S)
    assert not pair.closed(pair.client) and not pair.closed(pair.server)
    pair.client.reset(mine, 0)
    pair.run(21.0)
    assert pair.closed(pair.client) and pair.closed(pair.server)


def test_a_handshake_without_answer_ends_at_its_deadline():
    pair = Pair(limits=Limits(handshake_timeout_s=2.0))
    pair.is_lost = lambda data: True
    pair.in_flight.clear()
    pair.run(1.9)
    assert not pair.closed(pair.client)
    pair.run(0.2)
    assert len(pair.closed(pair.client)) == 1


def test_a_goodbye_resets_every_stream_with_shutdown():
    pair = Pair().run()
    mine, theirs = pair.stream()
    pair.server.close(0x1006, "shutdown")
    assert theirs.read_code == WireCode.SHUTDOWN
    pair.run(0.1)
    assert pair.closed(pair.client) == [0x1006]
    assert (mine.read_code, mine.write_code) == (WireCode.SHUTDOWN, WireCode.SHUTDOWN)
    pair.run(1.0)
    assert pair.of(pair.client, Terminated) and pair.of(pair.server, Terminated)
