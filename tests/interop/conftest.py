"""One event loop and one process of each foreign peer for all interop tests: a process takes a second to start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from quiver.live.libp2p.host import Kind
from tests.interop import installed
from tests.interop.foreign import ForeignPeer
from tests.interop.ours import Way

# The longest test waits for a command's own deadline, 15 s.
TEST_S = 30.0
LISTEN = {
    "js": ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"],
    "py": ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"],
}
KAD = {"js": "/quiver/kad/1.0.0", "py": "/ipfs/kad/1.0.0"}
# js-libp2p lets 5 connections a second of one host in, and all tests are one host.
INBOUND_PER_SECOND = 1000

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """Runs a test's coroutine on the loop that the peers' pipes belong to."""

    async def limited(story: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(TEST_S):
            return await story

    with asyncio.Runner() as runner:
        yield lambda story: runner.run(limited(story))


@pytest.fixture(scope="session")
def start(run: Run) -> Iterator[Callable[..., ForeignPeer]]:
    """Starts another peer of a kind, with options; skips or fails where it is not installed."""
    peers: list[ForeignPeer] = []

    def start(kind: str, **options: Any) -> ForeignPeer:
        try:
            command = installed.command(kind)
        except installed.NotInstalled as missing:
            if installed.is_required(missing):
                pytest.fail(str(missing))
            pytest.skip(str(missing))
        defaults = {"listen": LISTEN[kind], "kad": KAD[kind], "inbound_per_second": INBOUND_PER_SECOND}
        peers.append(run(ForeignPeer.start(kind, command, **defaults | options)))
        return peers[-1]

    yield start

    async def stop() -> None:
        await asyncio.gather(*[peer.stop() for peer in peers])

    run(stop())


@pytest.fixture(scope="session")
def js(start: Callable[..., ForeignPeer]) -> ForeignPeer:
    """A js-libp2p node for all tests."""
    return start("js")


@pytest.fixture(scope="session")
def py(start: Callable[..., ForeignPeer]) -> ForeignPeer:
    """A py-libp2p node for all tests."""
    return start("py")


@pytest.fixture(params=[f"{kind}-{way}" for kind in ("js", "py") for way in Kind])
def way(request: pytest.FixtureRequest) -> Way:
    """Each foreign peer over QUIC and over TCP in turn."""
    kind, way = request.param.split("-")
    return Way(request.getfixturevalue(kind), Kind(way))
