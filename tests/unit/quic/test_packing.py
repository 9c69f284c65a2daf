"""What one turn's packets hold, and that streams get what was written whatever the network and the peer's credit do."""

from __future__ import annotations

import random

import pytest

from quiver.quic.limits import Limits
from quiver.wire.multistream import encode_proposal
from tests.unit.quic.pair import FRAMING, PROTOCOL, Pair


def read_all(driver, stream):
    return list(iter(lambda: driver.read(stream), None))


def datagrams_of(pair, messages, size):
    """Sizes of the datagrams of one turn in which each message is written to a stream of its own."""
    streams = [pair.client.open(PROTOCOL, FRAMING) for _ in range(messages)]
    pair.run(0.1)
    for stream in streams:
        pair.client.write(stream, bytes(size))
    return [len(data) for data, _ in pair.client.datagrams_to_send(pair.now)]


def test_a_message_is_not_cut_for_the_last_corner_of_a_packet():
    # 27 bytes of header and tag; 440 bytes, 2 of length, 5 of frame header and offset: two make 921, and 279 stay empty.
    assert datagrams_of(Pair().run(), messages=4, size=440) == [921, 921]


def test_a_large_message_fills_every_packet_but_the_last():
    first, last = datagrams_of(Pair().run(), messages=1, size=2000)
    assert (first, last) == (1200, 2000 + 2 + 2 * 27 + 5 + 6 - 1200)


def test_streams_take_turns_when_congestion_control_stops_them():
    pair = Pair().run()
    streams = [pair.client.open(PROTOCOL, FRAMING) for _ in range(3)]
    pair.run(0.1)
    for stream in streams:
        for _ in range(3):
            pair.client.write(stream, bytes(50_000))
    pair.run(0.1)
    received = [pair.quics[1]._streams[stream.id].receiver._buffer_start for stream in streams]
    assert min(received) > 0.7 * max(received)
    assert sum(received) < 450_000


def test_a_stream_that_always_has_a_little_to_say_leaves_room_for_one_that_has_much():
    pair = Pair().run()
    chatty, bulk = (pair.client.open(PROTOCOL, FRAMING) for _ in range(2))
    pair.run(0.1)
    client = pair.quics[0]
    # Nothing is acknowledged: a turn may send what its congestion window has grown by, one packet.
    client._loss._cc.congestion_window = client._loss.bytes_in_flight
    pair.client.write(bulk, bytes(60_000))
    for _ in range(20):
        pair.client.write(chatty, bytes(1100))
        client._loss._cc.congestion_window += 1200
        pair.now += 0.02
        assert len(client.datagrams_to_send(pair.now)) == 1
    sent = [client._streams[stream.id].sender.highest_offset for stream in (chatty, bulk)]
    assert min(sent) > 0.7 * max(sent)


@pytest.mark.parametrize("seed", range(4))
def test_everything_arrives_in_order_through_loss_small_windows_and_resets(seed):
    rng = random.Random(seed)
    pair = Pair(limits=Limits(stream_window_bytes=8192, connection_window_bytes=16_384)).run()
    pair.is_lost = lambda data: rng.random() < 0.1
    sent, received, streams = {}, {}, []
    for _ in range(12):
        stream = pair.client.open(PROTOCOL, FRAMING)
        streams.append(stream)
        sent[stream.id] = [rng.randbytes(rng.choice((5, 400, 3000))) for _ in range(8)]
    left = {stream.id: list(sent[stream.id]) for stream in streams}
    for _ in range(400):
        for stream in streams:
            while left[stream.id] and stream.write_code is None and pair.client.may_write(stream):
                pair.client.write(stream, left[stream.id].pop(0))
            if not left[stream.id]:
                pair.client.finish(stream)
        pair.run(0.05)
        for theirs in pair.opened():
            received.setdefault(theirs.id, []).extend(read_all(pair.server, theirs))
            if theirs.id == 8 and theirs.write_code is None:
                pair.server.reset(theirs, 77)
            elif theirs.has_ended:
                pair.server.finish(theirs)
    assert [stream.write_code for stream in streams if stream.id == 8] == [77]
    assert {key: value for key, value in received.items() if key != 8} == {
        key: value for key, value in sent.items() if key != 8
    }
    assert pair.client.streams_open == pair.server.streams_open == 0
    assert not pair.quics[0]._streams and not pair.quics[0]._streams_queue
    assert not pair.quics[1]._streams and not pair.quics[1]._streams_queue


def test_the_peer_may_open_one_more_for_each_of_its_streams_that_is_over():
    pair = Pair(limits=Limits(streams_max=4)).run()
    for _ in range(20):
        mine, theirs = pair.stream()
        pair.client.finish(mine)
        pair.run(0.1)
        pair.server.finish(theirs)
        pair.run(0.1)
    assert len(pair.opened()) == 20


def frames_of(pair):
    """(bytes, end) of each piece of stream data that reaches the server from now on."""
    seen, quic = [], pair.quics[1]
    handle = quic.next_event

    def next_event():
        event = handle()
        if hasattr(event, "end_stream"):
            seen.append((bytes(event.data), event.end_stream))
        return event

    quic.next_event = next_event
    return seen


def test_proposal_question_and_end_leave_in_one_frame():
    pair = Pair().run()
    seen = frames_of(pair)
    pair.client.write_last(pair.client.open(PROTOCOL, FRAMING), b"question")
    pair.run(0.1)
    assert seen == [(encode_proposal(PROTOCOL) + b"\x08question", True)]


def test_a_proposal_nobody_writes_after_leaves_with_the_next_datagrams():
    pair = Pair().run()
    seen = frames_of(pair)
    pair.client.open(PROTOCOL, FRAMING)
    pair.run(0.1)
    assert seen == [(encode_proposal(PROTOCOL), False)]


def test_streams_opened_in_one_turn_have_ids_of_their_own_and_one_reset_at_once_says_nothing():
    pair = Pair().run()
    seen = frames_of(pair)
    streams = [pair.client.open(PROTOCOL, FRAMING) for _ in range(3)]
    assert [stream.id for stream in streams] == [0, 4, 8]
    pair.client.reset(streams[1], 5)
    pair.run(0.1)
    assert seen == [(encode_proposal(PROTOCOL), False)] * 2
    assert pair.client.streams_open == 2
