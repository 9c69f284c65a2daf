"""QUIC Retry (RFC 9000, 8.1.2): js- and py-libp2p dial our endpoint while as many handshakes are half-open as it bears."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from aioquic.quic.connection import QuicConnection

from quiver.quic.limits import Limits, NodeLimits, Refusal
from quiver.quic.tls import make_configuration
from tests.interop.ours import address, serve
from tests.unit.quic.pair import identity

pytestmark = pytest.mark.interop

# Two strangers that never finish are the load.
THRESHOLD = 2


def leave_half_open(node):
    """The first datagram of a client that is never heard of again."""
    limits = Limits()
    client = QuicConnection(
        configuration=make_configuration(
            identity(1), is_client=True, idle_timeout_s=limits.idle_timeout_s,
            stream_window_bytes=limits.stream_window_bytes, connection_window_bytes=limits.connection_window_bytes,
        )
    )  # fmt: skip
    where = ("127.0.0.1", node.port)
    client.connect(where, now=time.monotonic())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for data, _ in client.datagrams_to_send(now=time.monotonic()):
            sender.sendto(data, where)


@pytest.mark.parametrize("way", ["js-quic", "py-quic"], indirect=True)
def test_it_dials_us_under_load_and_shows_that_it_is_where_it_says(run, way):
    async def story():
        async with way.opened(node_limits=NodeLimits(retry_threshold=THRESHOLD)) as node:
            serve(node)
            for number in range(THRESHOLD):
                assert node.swarm.admission.half_open == number
                leave_half_open(node)
                while node.swarm.admission.half_open == number:
                    await asyncio.sleep(0.01)
            assert not node.refused
            told = await way.other.call("dial", address=address(node))
            assert node.refused == {Refusal.RETRY: 1}
            assert (await way.other.call("echo", peer=told["peer"], size=100_000))["same"]

    run(story())


@pytest.mark.parametrize("way", ["js-quic", "py-quic"], indirect=True)
def test_without_load_it_is_not_asked_to(run, way):
    async def story():
        async with way.opened(node_limits=NodeLimits(retry_threshold=THRESHOLD)) as node:
            serve(node)
            leave_half_open(node)
            await way.other.call("dial", address=address(node))
            assert not node.refused

    run(story())
