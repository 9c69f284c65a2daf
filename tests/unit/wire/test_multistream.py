"""multistream-select: the bytes by hand, every way to split them, and every way to break them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiver.wire.multistream import (
    PROPOSALS_MAX,
    Dialer,
    Listener,
    NegotiationFailed,
    encode_message,
    encode_proposal,
    split_proposal,
)

HEADER = bytes.fromhex("13") + b"/multistream/1.0.0\n"
NA = bytes.fromhex("036e610a")


def listener(*served):
    return Listener(served.__contains__)


def test_the_bytes_of_the_specification():
    assert encode_message("/multistream/1.0.0") == HEADER
    assert encode_message("na") == NA
    assert encode_proposal("/a") == HEADER + b"\x03/a\n"


def test_a_listener_echoes_what_it_serves_and_keeps_the_first_payload():
    end = listener("/a")
    assert end.feed(encode_proposal("/a") + b"payload") == (HEADER + b"\x03/a\n", b"payload")
    assert end.protocol_id == "/a"


def test_a_listener_says_na_and_takes_the_next_proposal():
    end = listener("/b")
    assert end.feed(encode_proposal("/a")) == (HEADER + NA, b"")
    assert end.protocol_id is None
    assert end.feed(b"\x03/b\n") == (b"\x03/b\n", b"")
    assert end.protocol_id == "/b"


def test_a_dialer_hands_over_what_follows_the_echo():
    end = Dialer("/a")
    assert end.feed(HEADER) is None
    assert end.feed(b"\x03/a\nrest") == b"rest"


def test_a_dialer_is_told_na():
    with pytest.raises(NegotiationFailed, match="does not serve /a"):
        Dialer("/a").feed(HEADER + NA)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",  # empty
        b"\x81\x08" + b"x" * 1025,  # 1025 bytes; at most 1024
        b"\x02ab",  # no newline
        b"\x02\xff\n",  # not UTF-8
        b"\x04/no\n",  # not the header
        b"\x80\x00",  # a length that is not in its shortest form
        b"\xff" * 9,  # a length without end
    ],
)
def test_what_is_not_multistream_is_refused_by_both_ends(data):
    for end in (Dialer("/a"), listener("/a")):
        with pytest.raises(NegotiationFailed):
            end.feed(data)


def test_a_dialer_that_only_proposes_is_refused():
    end = listener()
    end.feed(HEADER + b"\x03/a\n" * (PROPOSALS_MAX - 1))
    with pytest.raises(NegotiationFailed, match="100 proposals"):
        end.feed(b"\x03/a\n")


@given(cuts=st.lists(st.integers(min_value=1, max_value=40), max_size=20), payload=st.binary(max_size=50))
def test_both_ends_agree_however_the_bytes_are_cut(cuts, payload):
    there, back = encode_proposal("/quiver/x/1.0.0") + payload, b""
    end, received = listener("/quiver/x/1.0.0"), b""
    for piece in pieces(there, cuts):
        if end.protocol_id is None:
            reply, rest = end.feed(piece)
            back += reply
            received += rest
        else:
            received += piece
    assert received == payload
    dialer, agreed = Dialer("/quiver/x/1.0.0"), None
    for piece in pieces(back, cuts):
        assert agreed is None
        agreed = dialer.feed(piece)
    assert agreed == b""


def pieces(data, cuts):
    for cut in cuts:
        if data:
            yield data[:cut]
            data = data[cut:]
    if data:
        yield data


@pytest.mark.parametrize("rest", [b"", b"payload"])
def test_a_proposal_in_one_piece_is_split_without_a_listener(rest):
    data = encode_proposal("/quiver/x/1.0.0")
    assert split_proposal(data + rest) == ("/quiver/x/1.0.0", len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEADER,
        HEADER + b"\x03/a",
        HEADER[:-1] + b"x\x03/a\n",
        HEADER + b"\x00",
        HEADER + b"\x03/ab",
        HEADER + b"\x03\xff\xfe\n",
        encode_proposal("/" + "a" * 200),
    ],
)
def test_anything_else_is_left_to_the_listener(data):
    assert split_proposal(data) is None
