"""Canaries: one test for each private name of aioquic that quiver/quic relies on. When one dies, look there first."""

from __future__ import annotations

import inspect
import re
from collections import deque

import pytest
from aioquic import tls
from aioquic.quic.connection import Limit, QuicConnection
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.stream import QuicStream, QuicStreamSender

from tests.unit.quic.pair import FRAMING, PROTOCOL, Pair, peer_id


def parameters(function):
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("owner", "name", "expected"),
    [
        (tls.Context, "_set_peer_certificate", ["self", "certificate"]),
        (tls.Context, "_server_handle_certificate", ["self", "input_buf"]),
        (tls.Context, "_check_certificate_verify_signature", ["self", "verify"]),
        (QuicConnection, "_initialize", ["self", "peer_cid"]),
        (QuicConnection, "_write_stream_limits", ["self", "builder", "space", "stream"]),
        (QuicConnection, "_write_connection_limits", ["self", "builder", "space"]),
        (QuicConnection, "_stream_is_discarded", ["self", "stream_id"]),
        (QuicConnection, "_stream_limit", ["self", "stream_id"]),
        (QuicConnection, "_write_application", ["self", "builder", "network_path", "now"]),
        (QuicConnection, "_write_ack_frame", ["self", "builder", "space", "now"]),
        (QuicConnection, "_write_stream_frame", ["self", "builder", "space", "stream", "max_offset"]),
        (QuicConnection, "_handle_stream_frame", ["self", "context", "frame_type", "buf"]),
        (QuicConnection, "_get_or_create_stream", ["self", "frame_type", "stream_id"]),
        (QuicConnection, "_get_or_create_stream_for_send", ["self", "stream_id"]),
        (QuicConnection, "_assert_stream_can_receive", ["self", "frame_type", "stream_id"]),
        (QuicConnection, "_write_stop_sending_frame", ["self", "builder", "stream"]),
        (QuicConnection, "_write_reset_stream_frame", ["self", "builder", "stream"]),
        (QuicStreamSender, "on_data_delivery", ["self", "delivery", "start", "stop", "fin"]),
        (
            QuicStream,
            "__init__",
            ["self", "stream_id", "max_stream_data_local", "max_stream_data_remote", "readable", "writable"],
        ),
    ],
)
def test_a_method_we_override_or_call_has_the_same_shape(owner, name, expected):
    assert parameters(getattr(owner, name)) == expected


@pytest.fixture(scope="module")
def pair():
    pair = Pair().run()
    pair.client.open(PROTOCOL, FRAMING)
    return pair.run(0.1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_streams", dict),
        ("_streams_queue", list),
        ("_configuration", object),
        ("_close_event", type(None)),
        ("_local_max_data", Limit),
        ("_local_max_streams_bidi", Limit),
        ("_local_max_streams_uni", Limit),
        ("_local_next_stream_id_bidi", int),
        ("_local_max_stream_data_bidi_local", int),
        ("_local_max_stream_data_bidi_remote", int),
        ("_remote_max_stream_data_bidi_local", int),
        ("_remote_max_stream_data_bidi_remote", int),
        ("_remote_max_streams_bidi", int),
        ("_remote_max_data", int),
        ("_remote_max_data_used", int),
        ("_max_datagram_size", int),
        ("_pacing_at", (float, type(None))),
        ("_host_cids", list),
        ("_is_client", bool),
        ("_events", deque),
        ("_retire_connection_ids", list),
        ("_ping_pending", list),
        ("_datagrams_pending", deque),
        ("_crypto_streams", dict),
        ("_cryptos", dict),
        ("_spaces", dict),
        ("_handshake_confirmed", bool),
        ("_handshake_done_pending", bool),
        ("_probe_pending", bool),
        ("_streams_blocked_pending", bool),
        ("host_cid", bytes),
    ],
)
def test_a_connection_still_has_the_attribute(pair, name, kind):
    assert isinstance(getattr(pair.quics[0], name), kind)


@pytest.mark.parametrize("name", ["_request_client_certificate", "_peer_certificate"])
def test_a_tls_context_still_has_the_attribute(pair, name):
    assert getattr(pair.quics[1].tls, name)


def test_aioquic_still_writes_these_frames_and_no_others():
    written = set(re.findall(r"self\.(_write_\w+)\(", inspect.getsource(QuicConnection._write_application)))
    left_to_aioquic = {
        "_write_path_challenge_frame", "_write_path_response_frame", "_write_handshake_done_frame", "_write_ping_frame",
        "_write_new_connection_id_frame", "_write_retire_connection_id_frame", "_write_streams_blocked_frame",
        "_write_crypto_frame", "_write_datagram_frame",
    }  # fmt: skip
    packed_here = {
        "_write_ack_frame", "_write_connection_limits", "_write_stream_limits", "_write_stop_sending_frame",
        "_write_reset_stream_frame", "_write_stream_frame",
    }  # fmt: skip
    assert written == left_to_aioquic | packed_here


def test_a_packet_space_and_a_pacer_still_say_when(pair):
    quic = pair.quics[0]
    assert isinstance(quic._spaces[tls.Epoch.ONE_RTT].ack_at, float | None)
    assert parameters(quic._loss._pacer.next_send_time) == ["now"]
    assert parameters(quic._loss._pacer.update_after_send) == ["now"]
    assert all(connection_id.was_sent for connection_id in quic._host_cids)


def test_a_sender_that_was_emptied_learns_it_only_at_the_next_visit():
    sender = QuicStream(stream_id=0).sender
    sender.write(b"x" * 10, end_stream=True)
    assert (len(sender._pending), sender._pending_eof) == (1, True)
    assert sender.get_frame(10).fin
    assert (len(sender._pending), sender._pending_eof, sender.buffer_is_empty) == (0, False, False)
    assert sender.highest_offset == sender._buffer_stop == sender._buffer_fin == 10
    assert bytes(sender._buffer[0 - sender._buffer_start :]) == b"x" * 10


def test_a_receiver_still_counts_what_it_handed_over():
    receiver = QuicStream(stream_id=0).receiver
    receiver.handle_frame(QuicStreamFrame(data=b"x" * 10))
    assert receiver._buffer_start == receiver.starting_offset() == receiver.highest_offset == 10
    assert receiver._final_size is None
    receiver.handle_frame(QuicStreamFrame(offset=10, data=b"x", fin=True))
    assert (receiver._final_size, receiver.is_finished) == (11, True)


def test_the_server_asks_for_a_certificate_when_told_to():
    source = inspect.getsource(tls.Context)
    assert "if self._request_client_certificate:" in source


def test_the_recovery_still_says_when_it_has_a_round_trip_time(pair):
    assert pair.quics[0]._loss._rtt_initialized is True
    assert pair.quics[0]._loss._pto_count == 0
    assert pair.quics[0]._loss._rtt_smoothed == pytest.approx(0.02, abs=0.005)


def test_a_sender_still_tells_what_it_holds_and_whether_it_was_reset():
    sender = QuicStream(stream_id=0).sender
    sender.write(b"x" * 10)
    assert sender._buffer_stop - sender._buffer_start == 10
    assert sender._reset_error_code is None
    sender.reset(5)
    assert sender._reset_error_code == 5


def test_a_limit_is_raised_by_value_and_remembers_what_it_told():
    limit = Limit(frame_type=0, name="x", value=7)
    assert (limit.sent, limit.used, limit.value) == (7, 0, 7)


def test_streams_are_entered_by_setitem_so_that_their_hash_is_their_id(pair):
    for quic in pair.quics:
        assert [hash(stream) for stream in quic._streams.values()] == [0]


def test_the_hook_was_put_on_both_ends(pair):
    assert [quic.tls.remote_peer for quic in pair.quics] == [peer_id(2), peer_id(1)]
