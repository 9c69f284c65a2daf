"""DNS names in an operator's addresses. Only names that need no network: localhost, and one that cannot exist."""

import asyncio

import pytest

from quiver.errors import Unavailable
from quiver.identity.keys import KeyPair
from quiver.live.names import resolve_names, resolve_some
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import from_text, to_text

PEER = KeyPair(b"\x01" * 32).peer_id
# Reserved by RFC 6761: no resolver knows it.
NOWHERE = "/dns4/nobody.invalid/tcp/4001"


def info(*texts):
    return PeerInfo(peer_id=PEER, addresses=tuple(from_text(text) for text in texts))


def resolved(*texts):
    found = asyncio.run(resolve_names(info(*texts)))
    assert found.peer_id == PEER
    return [to_text(address) for address in found.addresses]


def test_a_name_becomes_an_ip_address_and_the_rest_stays():
    assert resolved("/dns4/localhost/udp/4001/quic-v1") == ["/ip4/127.0.0.1/udp/4001/quic-v1"]
    assert "/ip4/127.0.0.1/tcp/4001" in resolved("/dns/localhost/tcp/4001")


def test_what_has_no_name_is_left_alone():
    addresses = ["/ip4/10.0.0.1/udp/4001/quic-v1", "/ip6/::1/tcp/4001"]
    assert resolved(*addresses) == addresses


def test_an_unknown_name_is_named():
    with pytest.raises(Unavailable, match="/dns4/nobody.invalid/tcp/4001: the name cannot be resolved"):
        resolved(NOWHERE)
    with pytest.raises(Unavailable, match="/dnsaddr is not looked up"):
        resolved("/dnsaddr/localhost")
    # Longer than a label may be: the resolver refuses it before it asks.
    with pytest.raises(Unavailable, match="cannot be resolved"):
        resolved(f"/dns4/{'x' * 70}.invalid/tcp/1")


def test_one_bad_name_does_not_hide_the_others():
    good = info("/dns4/localhost/tcp/4001")
    found = asyncio.run(resolve_some([info(NOWHERE), good]))
    assert [to_text(address) for one in found for address in one.addresses] == ["/ip4/127.0.0.1/tcp/4001"]
    with pytest.raises(Unavailable, match="nobody.invalid"):
        asyncio.run(resolve_some([info(NOWHERE)]))
    assert asyncio.run(resolve_some([])) == []
