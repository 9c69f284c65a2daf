"""Multiaddrs: vectors seen on the wire, round trips, and addresses that are not ones."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiver.errors import MalformedMessage
from quiver.wire import multiaddr

PEER = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
PEER_HEX = "0024080112208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("/ip4/127.0.0.1/udp/4001/quic-v1", "047f00000191020fa1cd03"),
        ("/ip6/::1/tcp/4001", "29" + "00" * 15 + "01" + "060fa1"),
        (f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}", "047f000001060fa1" + "a50326" + PEER_HEX),
        ("/dns4/a.io/udp/1/quic-v1", "3604" + b"a.io".hex() + "91020001" + "cd03"),
        ("/dnsaddr/b.io", "3804" + b"b.io".hex()),
        ("/dns/c/tcp/1", "350163" + "060001"),
        ("/dns6/c/tcp/1", "370163" + "060001"),
    ],
)
def test_text_and_bytes(text, data):
    assert multiaddr.from_text(text).hex() == data
    assert multiaddr.to_text(bytes.fromhex(data)) == text


def test_the_old_name_of_p2p_is_understood():
    assert multiaddr.from_text(f"/ipfs/{PEER}") == multiaddr.from_text(f"/p2p/{PEER}")


@pytest.mark.parametrize(
    "data",
    [
        "cc03",  # quic draft 29: a code we do not know
        "047f0000",  # cut address
        "35056162",  # cut name
        "35",  # no length
        "80",  # cut code
        "35" + "8180",  # cut length
    ],
)
def test_bytes_we_cannot_use_are_refused(data):
    with pytest.raises(MalformedMessage):
        multiaddr.decode(bytes.fromhex(data))
    assert multiaddr.quic_endpoint(bytes.fromhex(data)) is None


@pytest.mark.parametrize(
    "text",
    ["", "ip4/1.2.3.4", "/ip4/1.2.3", "/ip4/1.2.3.4/udp/65536", "/ip4/1.2.3.4/udp", "/http/x", "/p2p/xx", "/dns"],
)
def test_text_that_is_no_multiaddr_is_refused(text):
    with pytest.raises(MalformedMessage):
        multiaddr.from_text(text)


def test_an_overlong_address_is_refused():
    with pytest.raises(MalformedMessage):
        multiaddr.decode(b"\x35" + b"\xff\x04" + b"a" * 639)
    # Nor is one written, which nobody could read.
    for name in ("a" * 509, "a" * 639):
        with pytest.raises(MalformedMessage, match="at most 512"):
            multiaddr.from_text(f"/dns/{name}/tcp/1")
    assert len(multiaddr.from_text("/dns/" + "a" * 506 + "/tcp/1")) == 512


def test_which_addresses_quic_can_dial():
    def endpoint(text):
        return multiaddr.quic_endpoint(multiaddr.from_text(text))

    assert endpoint("/ip4/10.0.0.1/udp/4001/quic-v1") == ("10.0.0.1", 4001)
    assert endpoint(f"/ip6/::1/udp/4001/quic-v1/p2p/{PEER}") == ("::1", 4001)
    for other in (
        "/ip4/10.0.0.1/tcp/4001",
        "/dns4/a.io/udp/1/quic-v1",
        "/ip4/1.2.3.4/udp/1",
        "/ip4/1.2.3.4/udp/1/quic-v1/tcp/1",
    ):
        assert endpoint(other) is None


@given(host=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), port=st.integers(0, 65535))
def test_an_endpoint_survives_the_round_trip(host: ipaddress.IPv4Address, port):
    data = multiaddr.quic_address(str(host), port)
    assert multiaddr.quic_endpoint(data) == (str(host), port)
    assert multiaddr.from_text(multiaddr.to_text(data)) == data
    assert multiaddr.encode(multiaddr.decode(data)) == data


@given(st.binary(max_size=64))
def test_random_bytes_are_an_address_or_malformed(data):
    try:
        parts = multiaddr.decode(data)
    except MalformedMessage:
        return
    assert multiaddr.decode(multiaddr.encode(parts)) == parts
