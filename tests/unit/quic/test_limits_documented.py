"""The specification names every refusal and states the limits that the code has."""

from __future__ import annotations

import re
from pathlib import Path

from quiver.quic.address_rates import KNOWN_S
from quiver.quic.limits import Limits, NodeLimits, Refusal
from quiver.quic.streams import FRAME_COST_BYTES, NEGOTIATION_TIMEOUT_S

SECTION = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text().split("### Limits")[1].split("\n## ")[0]


def row(start):
    """The numbers in the row that begins with `start`."""
    line = next(line for line in SECTION.splitlines() if line.startswith(f"| {start} |"))
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?<!,)", line.split("|")[2])]


def of(bound):
    return [bound.incoming, bound.outgoing, bound.total]


def test_every_refusal_is_named():
    assert set(re.findall(r"`([a-z_]+)`", SECTION)) >= {kind.value for kind in Refusal}


def test_the_numbers_are_those_of_the_code():
    node, one = NodeLimits(), Limits()
    assert row("connections") == of(node.connections)
    special = [limit for name, bound in node.protocols_and_peers[:2] for limit in of(bound)]
    assert row("of a protocol and a peer") == of(node.streams_per_protocol_and_peer) + special
    assert row("of a protocol") == of(node.streams_per_protocol)
    assert row("streams") == of(node.streams)
    memory = row("unread, unfinished and unsent bytes of all connections")
    assert memory[:2] == [node.memory_bytes >> 20, node.memory_reserve_bytes >> 10]
    assert row("unread bytes (a frame counts 32 more)")[:2] == [one.stream_window_bytes >> 10, 16]
    assert f"a frame counts {FRAME_COST_BYTES} more" in SECTION
    assert row("half-open") == [node.half_open_max, node.half_open_grace_s]
    assert row("handshake") == [one.handshake_timeout_s]
    assert row("naming a protocol") == [NEGOTIATION_TIMEOUT_S]
    assert row("streams that the peer resets or that come to nothing")[:2] == [one.waste.burst, one.waste.per_s]
    assert row("questions, and streams for a handler, of a protocol and a peer") == [
        node.rpc_rate.burst,
        node.rpc_rate.per_s,
    ]
    for name, rate in (
        ("attempts to connect from an IPv4 address or IPv6 /64", node.connection_rate),
        ("from a loopback address", node.loopback_rate),
        ("from a public IPv4 /24 or IPv6 /48", node.network_rate),
    ):
        assert row(name) == [rate.burst, rate.per_s]
    assert row("addresses, and networks, of which attempts are counted") == [node.addresses_max]
    assert row("addresses at which a peer proved itself in the last hour") == [node.known_addresses_max]
    assert KNOWN_S == 3600
    assert f"With {node.retry_threshold} half-open" in SECTION
