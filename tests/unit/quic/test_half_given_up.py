"""Streams of which one half ends while the other is still expected to say something: nothing raises, and nothing is kept for ever."""

from __future__ import annotations

from collections import Counter

from quiver.errors import WireCode
from quiver.quic.limits import Limits, Refusal
from quiver.quic.rate import Rate
from quiver.quic.streams import CLOSE_RATE_LIMITED, NEGOTIATION_TIMEOUT_S
from quiver.wire.framing import encode_frame
from quiver.wire.multistream import encode_proposal
from tests.unit.quic.pair import FRAME_MAX, FRAMING, PROTOCOL, Pair

PROPOSAL = encode_proposal(PROTOCOL)


def counted(driver):
    kinds = Counter()
    driver.on_refusal = lambda kind: kinds.update([kind])
    return kinds


def begin(pair, data=PROPOSAL[:5]):
    """The client's stream 0 with a piece of its proposal, and STOP_SENDING for what the server might say."""
    # A peer that is not ours: it does not end its half because the server has ended the other.
    pair.client._on_reset = lambda *_: None
    pair.quics[0].send_stream_data(0, data)
    pair.run(0.1)
    pair.quics[0].stop_stream(0, 7)
    pair.run(0.1)


def test_a_peer_that_wants_no_answer_may_still_name_its_protocol():
    pair = Pair().run()
    begin(pair)
    pair.quics[0].send_stream_data(0, PROPOSAL[5:] + encode_frame(b"heard"))
    pair.run(0.1)
    (stream,) = pair.opened()
    assert pair.server.read(stream) == b"heard" and stream.write_code == 7


def test_a_peer_that_wants_no_answer_has_no_longer_to_name_its_protocol():
    pair = Pair().run()
    kinds = counted(pair.server)
    begin(pair)
    pair.run(NEGOTIATION_TIMEOUT_S)
    assert pair.server.streams_open == 0 and kinds == {Refusal.NEGOTIATION: 1}


def test_a_peer_that_wants_no_answer_has_no_longer_to_ask():
    pair = Pair().run()
    kinds = counted(pair.server)
    pair.client._on_reset = lambda *_: None
    pair.quics[0].send_stream_data(0, PROPOSAL)
    pair.run(0.1)
    pair.server.expect_question(pair.opened()[0], pair.now)
    pair.quics[0].stop_stream(0, 7)
    pair.run(NEGOTIATION_TIMEOUT_S + 0.1)
    assert pair.server.streams_open == 0 and kinds == {Refusal.QUESTION: 1}


def test_the_connection_may_end_with_the_first_of_several_streams_that_are_late_together():
    pair = Pair(limits=Limits(waste=Rate(burst=1, per_s=0.001), idle_timeout_s=60.0)).run()
    for stream_id in (0, 4, 8):
        pair.quics[0].send_stream_data(stream_id, PROPOSAL[:5])
    pair.run(NEGOTIATION_TIMEOUT_S + 1)
    assert pair.closed(pair.server) == pair.closed(pair.client) == [CLOSE_RATE_LIMITED]
    assert pair.server.streams_open == 0


def test_a_stream_expected_to_ask_again_lets_no_other_be_late():
    pair = Pair().run()
    streams = [pair.client.open(PROTOCOL, FRAMING) for _ in range(2)]
    pair.run(0.1)
    first, second = pair.opened()
    pair.server.expect_question(first, pair.now)
    pair.server.expect_question(second, pair.now)
    pair.run(NEGOTIATION_TIMEOUT_S / 2)
    pair.server.expect_question(first, pair.now)
    pair.run(NEGOTIATION_TIMEOUT_S / 2 + 0.1)
    assert streams[1].read_code == WireCode.DEADLINE and streams[0].read_code is None
    pair.run(NEGOTIATION_TIMEOUT_S / 2)
    assert streams[0].read_code == WireCode.DEADLINE


def test_what_came_behind_a_mistake_in_one_datagram_opens_no_stream():
    pair = Pair().run()
    kinds = counted(pair.server)
    client, mistake = pair.quics[0], PROPOSAL + encode_frame(b"x" * (FRAME_MAX + 1))[:10]
    write_frame = client._write_stream_frame

    def write_two(*, builder, space, stream, max_offset):
        if stream.sender.highest_offset < len(mistake):
            max_offset = len(mistake)
        return write_frame(builder=builder, space=space, stream=stream, max_offset=max_offset)

    client._write_stream_frame = write_two
    client.send_stream_data(0, mistake + b"and more", end_stream=True)
    pair.run(0.5)
    assert pair.server.streams_open == 0 and kinds == {Refusal.FRAME: 1}
    pair.run(NEGOTIATION_TIMEOUT_S)
    assert kinds == {Refusal.FRAME: 1} and not pair.server._ignored
