"""A node from its config file: ports of the real world in one `Runtime`, the way into the network, and the way out.

`opened` builds, `join` finds the others, and leaving the block closes everything in the opposite order.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from quiver.aggregator.shards import Shards
from quiver.dht.service import DhtService
from quiver.errors import Unavailable, UsageError
from quiver.identity.peer_id import peer_id_text
from quiver.ids import Address, PeerId, short
from quiver.live import keyfile
from quiver.live.chain.opening import wait_for_ledger
from quiver.live.clock import LiveClock
from quiver.live.config import NodeConfig, parse_addresses
from quiver.live.config_file import resolve
from quiver.live.config_network import Network, load_network, parse_peer
from quiver.live.libp2p.host import Host
from quiver.live.log import LiveTrace, note
from quiver.live.membership import Membership, Mode
from quiver.live.names import resolve_names, resolve_some
from quiver.live.refusal_log import RefusalLog
from quiver.live.signer import LiveSigner, LiveVerifier, SignaturePool
from quiver.live.stores.choice import open_store
from quiver.quic.limits import Limits
from quiver.runtime import Runtime
from quiver.trace import LedgerMoved
from quiver.wire import multiaddr

# A node that cannot join asks again, twice as late each time.
JOIN_RETRY_S_MIN, JOIN_RETRY_S_MAX = 0.5, 30.0

_log = logging.getLogger("quiver.node")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One running node without its role."""

    runtime: Runtime
    network: Network
    host: Host
    membership: Membership
    aggregator: PeerId
    "Who commits epochs."
    shards: Shards | None
    "Who takes receipts in its place; None: nobody."
    signatures: SignaturePool

    def aggregator_of(self, account: Address) -> PeerId:
        """To whom a provider that is paid to `account` hands its receipts in."""
        return self.aggregator if self.shards is None else self.shards.peer_of(account)

    @property
    def dht(self) -> DhtService:
        """Finding peers and providers."""
        return self.membership.dht


@asynccontextmanager
async def opened(config: NodeConfig, path: Path) -> AsyncIterator[Node]:
    """Keys, network file, port, store and ledger of `config` (read from `path`); `UsageError` says what to correct."""
    network_path = resolve(path, config.network)
    network = load_network(network_path)
    keypair = keyfile.load(resolve(path, config.key))
    clock, trace = LiveClock(), LiveTrace()
    named = [parse_peer(text, where=str(network_path)) for text in network.aggregators]
    aggregator, *shards = [await resolve_names(info) for info in named]
    async with AsyncExitStack() as stack:
        pool = SignaturePool()
        stack.callback(pool.close)
        store = open_store(config.store, resolve(path, config.store), keypair.peer_id)
        stack.push_async_callback(store.close)
        ledger = await wait_for_ledger(
            network, network_path, keypair, clock=clock, access=config.chain, store=store,
            on_event=lambda event: trace.emit(LedgerMoved(at_s=clock.now(), node=keypair.peer_id, event=event)),
        )  # fmt: skip
        stack.push_async_callback(ledger.close)
        ways = config.transport
        transport = Host(
            keypair, host=ways.host, port=ways.port, clock=clock, kinds=ways.kinds(where=str(path)),
            announce=parse_addresses(ways.announce, where=str(path)), network=network.prefix(),
            node_limits=config.limits.node_limits(),
            limits=Limits(
                stream_window_bytes=network.params.stream_window_bytes, streams_max=network.params.streams_per_peer_max,
                idle_timeout_s=ways.idle_timeout_s, handshake_timeout_s=network.params.dial_timeout_s,
            ),
        )  # fmt: skip
        await transport.start()
        stack.push_async_callback(transport.close)
        stack.callback(RefusalLog(transport.refused).close)
        for info in (aggregator, *shards):
            transport.pin(info)
        runtime = Runtime(
            clock=clock, transport=transport, store=store, signer=LiveSigner(keypair, pool), verifier=LiveVerifier(pool),
            ledger=ledger, trace=trace, rng=random.Random(random.SystemRandom().getrandbits(256)), params=network.params,
        )  # fmt: skip
        note(
            _log, logging.INFO, "listening", peer=peer_id_text(keypair.peer_id), account="0x" + keypair.account.hex(),
            network=network.name, network_hash=network.compute_hash(),
            addresses=[multiaddr.to_text(address) for address in transport.local_info().addresses],
        )  # fmt: skip
        membership = Membership(
            transport, runtime, mode=_mode(ways.mode, keypair.peer_id, network), ids=ways.kad_ids(where=str(path))
        )  # fmt: skip
        stack.push_async_callback(membership.close)
        yield Node(host=transport,
            runtime=runtime, network=network, membership=membership, aggregator=aggregator.peer_id,
            shards=network.shards, signatures=pool,
        )  # fmt: skip


def _mode(mode: Mode, peer_id: PeerId, network: Network) -> Mode:
    """Who is named in network.toml for others to join through serves from the start: before it nobody is there to dial it back."""
    is_named = any(parse_peer(text, where="network.toml").peer_id == peer_id for text in network.bootstrap)
    return Mode.SERVER if mode is Mode.AUTO and is_named else mode


async def join(node: Node) -> None:
    """Return once a bootstrap peer has answered; the first node of a network has nobody to ask."""
    runtime = node.runtime
    peers = [parse_peer(text, where="network.toml") for text in node.network.bootstrap]
    others = [info for info in peers if info.peer_id != runtime.transport.peer_id]
    if not others and not peers:
        raise UsageError("network.toml names no bootstrap peer: get the file from whoever runs the network")
    wait_s = JOIN_RETRY_S_MIN
    while others:
        try:
            found = await resolve_some(others)
            for info in found:
                # Named by an operator: dialled again soon after it was away, however long that was.
                node.host.pin(info)
            await node.dht.bootstrap(found)
            break
        except Unavailable as error:
            note(_log, logging.WARNING, f"not joined yet: {error}{node.membership.why_silent(others)}", retry_s=wait_s)
            await runtime.clock.sleep(wait_s)
            wait_s = min(2 * wait_s, JOIN_RETRY_S_MAX)
    note(_log, logging.INFO, "joined", peers=len(node.dht.table), through=[short(info.peer_id) for info in others])


async def provide(node: Node, key: bytes) -> None:
    """Announce `key` until at least one peer holds the record; from then on the DHT renews it."""
    wait_s = JOIN_RETRY_S_MIN
    while await node.dht.provide(key) == 0:
        note(_log, logging.WARNING, "nobody holds our provider record yet", key=key, retry_s=wait_s)
        await node.runtime.clock.sleep(wait_s)
        wait_s = min(2 * wait_s, JOIN_RETRY_S_MAX)
