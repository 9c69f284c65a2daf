"""Canaries: one test for each private name of aioquic that quiver/quic relies on. When one dies, look there first."""

from __future__ import annotations

import inspect

import pytest
from aioquic import tls
from aioquic.quic.connection import Limit, QuicConnection
from aioquic.quic.stream import QuicStream

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
        ("host_cid", bytes),
    ],
)
def test_a_connection_still_has_the_attribute(pair, name, kind):
    assert isinstance(getattr(pair.quics[0], name), kind)


@pytest.mark.parametrize("name", ["_request_client_certificate", "_peer_certificate"])
def test_a_tls_context_still_has_the_attribute(pair, name):
    assert getattr(pair.quics[1].tls, name)


def test_the_server_asks_for_a_certificate_when_told_to():
    source = inspect.getsource(tls.Context)
    assert "if self._request_client_certificate:" in source


def test_the_recovery_still_says_when_it_has_a_round_trip_time(pair):
    assert pair.quics[0]._loss._rtt_initialized is True
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
