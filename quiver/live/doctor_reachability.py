"""`doctor`: can others dial this node? Asked of those who know: the bootstrap peers dial it back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from quiver.errors import QuiverError, UsageError
from quiver.identity.keys import KeyPair
from quiver.live import keyfile
from quiver.live.clock import LiveClock
from quiver.live.config import GatewayConfig, NodeConfig, parse_addresses
from quiver.live.config_network import Network, parse_peer
from quiver.live.finding import Finding, Status, ok
from quiver.live.libp2p.host import Host
from quiver.live.libp2p.reachability import Reachability, State
from quiver.live.names import resolve_some
from quiver.runtime import Nursery
from quiver.values.peer import PeerInfo

# A dial back takes its helper 5 s when it fails, and connecting took a while before.
TIMEOUT_S = 15.0
GREETING_TIMEOUT_S = 5.0


async def reachable(config: NodeConfig, path: Path, network: Network) -> Finding:
    """Bind the node's own ports for a moment under a throw-away key, and ask the bootstrap peers to dial back."""
    check, ways = "reachable", config.transport
    peers = await resolve_some([parse_peer(text, where="network.toml") for text in network.bootstrap])
    settled = asyncio.Event()
    host = Host(
        KeyPair(os.urandom(keyfile.SEED_BYTES)), host=ways.host, port=ways.port, kinds=ways.kinds(where=str(path)),
        announce=parse_addresses(ways.announce, where=str(path)), network=network.prefix(),
    )  # fmt: skip
    try:
        await host.start()
    except UsageError:
        detail = "not asked: the port is in use"
        return ok(check, f"{detail}; if by this node, its log tells, and a gateway's /health")
    try:
        reachability = Reachability(host, LiveClock(), on_change=lambda _: settled.set())
        async with Nursery() as nursery:
            nursery.start(reachability.run())
            for info in peers:
                host.learn(info)
                nursery.start(_greet(host, info))
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await settled.wait()
            except TimeoutError:
                pass
            nursery.cancel()
    finally:
        await host.close()
    return _judge_reachability(config, reachability)


async def _greet(host: Host, info: PeerInfo) -> None:
    try:
        await host.pings.ping(info.peer_id, timeout_s=GREETING_TIMEOUT_S)
    except QuiverError:
        # The bootstrap check tells.
        return


def _judge_reachability(config: NodeConfig, reachability: Reachability) -> Finding:
    """Whom nobody can dial sells nothing and lets nobody join; a gateway only dials itself."""
    advice = reachability.advice()
    if not advice:
        return ok("reachable", reachability.detail())
    is_fatal = reachability.state is State.UNREACHABLE and not isinstance(config, GatewayConfig)
    return Finding(
        check="reachable", status=Status.FAIL if is_fatal else Status.WARN, detail=reachability.detail(), fix=advice
    )  # fmt: skip
