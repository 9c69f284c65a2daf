"""STREAM frames taken and written the short way leave a connection as aioquic's own way does, whatever a peer sends."""

from __future__ import annotations

import random

import pytest
from aioquic.buffer import Buffer, size_uint_var
from aioquic.quic.connection import QuicConnection, QuicConnectionError, StreamFinishedError
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream

from quiver.quic.limits import Limits
from quiver.quic.stream_frames import STREAM_HEADER_BYTES, _on_delivery
from tests.unit.quic.pair import FRAMING, PROTOCOL, Pair

BEHIND = b"the next frame"


def frame(stream_id, offset, data, *, fin, has_length):
    """(type, what follows it)."""
    frame_type = QuicFrameType.STREAM_BASE | fin | (2 if has_length else 0) | (4 if offset else 0)
    buf = Buffer(capacity=len(data) + 64)
    buf.push_uint_var(stream_id)
    if offset:
        buf.push_uint_var(offset)
    if has_length:
        buf.push_uint_var(len(data))
    buf.push_bytes(data + (BEHIND if has_length else b""))
    return frame_type, buf.data


def take(handle, quic, frame_type, payload):
    """What became of a frame: the error, and where reading goes on."""
    buf = Buffer(data=payload)
    try:
        handle(quic, None, frame_type, buf)
    except StreamFinishedError:
        return "finished", buf.tell()
    except QuicConnectionError as error:
        return error.error_code, error.reason_phrase
    return None, buf.tell()


def state(quic):
    receivers = {
        stream_id: (vars(stream.receiver) | {"_ranges": list(stream.receiver._ranges)})
        for stream_id, stream in quic._streams.items()
    }
    windows = [
        (one.stream_id, one.max_stream_data_local, one.max_stream_data_remote, one.sender.is_finished)
        for one in quic._streams_queue
    ]
    return receivers, windows, quic._local_max_data.used, quic._local_max_streams_bidi.used, list(quic._events)


def random_frame(rng, content):
    # Ids 0 to 20 are the client's; 1 is the server's own, 2 and 3 are unidirectional, 4000 is beyond the limit.
    stream_id = rng.choice((0, 0, 4, 4, 8, 8, 12, 20, 1, 2, 3, 4000) if rng.random() < 0.2 else (0, 4, 8))
    # Streams end at 45, but for those that end before or go on behind it.
    start = rng.choice((0, 10, 20, 30, 40, 45))
    stop = start + rng.choice((0, 5, 10, 10, 20))
    stop = min(stop, 60 if rng.random() < 0.05 else 45)
    data = content[start:stop] if rng.random() < 0.97 else bytes(5000)
    fin = stop == 45 or rng.random() < 0.02
    return frame(stream_id, start, data, fin=fin, has_length=rng.random() < 0.9)


@pytest.mark.parametrize("seed", range(30))
def test_any_frames_in_any_order_have_the_same_effect_as_in_aioquic(seed):
    rng = random.Random(seed)
    content = rng.randbytes(60)
    limits = Limits(stream_window_bytes=4096, connection_window_bytes=rng.choice((100, 20_000)), streams_max=16)
    ours, theirs = (Pair(limits=limits).run().quics[1] for _ in range(2))
    seen = set()
    for _ in range(200):
        frame_type, payload = random_frame(rng, content)
        mine = take(type(ours)._handle_stream_frame, ours, frame_type, payload)
        assert mine == take(QuicConnection._handle_stream_frame, theirs, frame_type, payload)
        assert state(ours) == state(theirs)
        seen.add(mine[0])
    assert None in seen and len(seen) > 1


def test_a_frame_of_a_stream_that_was_forgotten_is_skipped_whole():
    pair = Pair().run()
    mine, theirs = pair.stream()
    pair.client.finish(mine)
    pair.run(0.1)
    pair.server.finish(theirs)
    pair.run(0.2)
    quic = pair.quics[1]
    assert mine.id not in quic._streams
    frame_type, payload = frame(mine.id, 0, b"again", fin=False, has_length=True)
    assert take(type(quic)._handle_stream_frame, quic, frame_type, payload) == ("finished", len(payload) - len(BEHIND))


def test_what_fits_a_packet_leaves_in_one_frame_and_the_senders_account_is_settled():
    pair = Pair().run()
    stream = pair.client.open(PROTOCOL, FRAMING)
    pair.client.write_last(stream, bytes(500))
    pair.client.datagrams_to_send(pair.now)
    sender = pair.quics[0]._streams[stream.id].sender
    assert sender.buffer_is_empty and not len(sender._pending) and not sender._pending_eof
    assert sender.highest_offset == sender._buffer_stop == sender._buffer_fin
    assert pair.quics[0]._remote_max_data_used == sender._buffer_stop


@pytest.mark.parametrize("seed", range(20))
def test_what_becomes_of_frames_has_the_same_effect_as_in_aioquic(seed):
    rng = random.Random(seed)
    ours, theirs = QuicStream(stream_id=0).sender, QuicStream(stream_id=0).sender
    frames, seen = [], set()
    for step in range(80):
        if step == 30 and seed % 5 == 0:
            ours.reset(7), theirs.reset(7)
        if ours._buffer_fin is None and ours._reset_error_code is None and rng.random() < 0.6:
            data, is_last = rng.randbytes(rng.randrange(1, 20)), step > 20
            ours.write(data, is_last), theirs.write(data, is_last)
        if ours._reset_error_code is None:
            mine = ours.get_frame(10)
            assert mine == theirs.get_frame(10)
            if mine is not None:
                frames.append((mine.offset, mine.offset + len(mine.data), mine.fin))
        if frames and rng.random() < 0.7:
            frame_sent = frames.pop(0 if rng.random() < 0.7 else rng.randrange(len(frames)))
            fate = QuicDeliveryState.ACKED if rng.random() < 0.7 else QuicDeliveryState.LOST
            _on_delivery(fate, ours, *frame_sent)
            theirs.on_data_delivery(fate, *frame_sent)
            seen.add(fate)
        accounts = [vars(one) | {"_acked": list(one._acked), "_pending": list(one._pending)} for one in (ours, theirs)]
        assert accounts[0] == accounts[1]
    assert len(seen) == 2 and ours._buffer_start > 0


@pytest.mark.parametrize("granted", [2, 16])
def test_streams_opened_the_short_way_are_those_that_aioquic_opens(granted):
    pairs = [Pair(limits=Limits(streams_max=granted)).run() for _ in range(2)]
    ours, theirs = (pair.quics[0] for pair in pairs)
    for _ in range(4):
        ours.open()
        theirs._get_or_create_stream_for_send(theirs._local_next_stream_id_bidi)
        states = [
            (
                [
                    (key, one.stream_id, one.is_blocked, one.max_stream_data_local, one.max_stream_data_local_sent,
                     one.max_stream_data_remote, hash(one))
                    for key, one in quic._streams.items()
                ],
                [one.stream_id for one in quic._streams_queue], quic._local_next_stream_id_bidi,
                [one.stream_id for one in quic._streams_blocked_bidi], quic._streams_blocked_pending,
            )
            for quic in (ours, theirs)
        ]  # fmt: skip
        assert states[0] == states[1]
    assert bool(ours._streams_blocked_bidi) == (granted < 4)


def test_the_room_kept_for_a_frame_header_is_enough():
    assert 1 + 2 * size_uint_var(2**62 - 1) + 2 == STREAM_HEADER_BYTES
