"""An aggregator that was killed with a million receipts behind it answers again within five seconds.

Measured in seconds of the process's own CPU, from its start to its first answer: that is what it takes on an idle machine.
"""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import nullcontext

import pytest

from quiver.errors import PeerError, Unavailable
from quiver.identity.keys import KeyPair
from quiver.live import keyfile
from quiver.live.config_network import parse_account, parse_peer
from quiver.live.devnet_ports import free_ports
from quiver.live.init import init_network
from quiver.live.libp2p.host import Host
from quiver.live.stores.postgres import PostgresStore
from quiver.live.stores.postgres_url import schema_of
from quiver.live.stores.sqlite import SqliteStore
from quiver.params import Params
from quiver.runtime import Deadline
from quiver.values.frames import AskHeads
from quiver.wire.protocols import RECEIPTS
from tests.live.aggregators import Aggregator
from tests.live.many_receipts import make_channels, make_rows, write
from tests.live.postgres import running_server
from tests.live.seller import LIMITS

RECEIPTS_KEPT, CHANNELS = 1_000_000, 20_000
RESTART_S_MAX = 5.0


async def fill(open_store, network, keys):
    """Everything lies in the open epoch."""
    store = open_store()
    contract = parse_account(network.chain.contract, where="network.toml")
    epoch = time.time_ns() // 1_000_000 // network.params.epoch_ms
    try:
        await write(
            store,
            make_rows(
                RECEIPTS_KEPT // CHANNELS,
                channels=make_channels(CHANNELS),
                epoch=epoch,
                key=keys.public_key,
                contract=contract,
            ),
        )
    finally:
        await store.close()


async def ask_until_answered(network, keys):
    """Acknowledgements on the first page the new process gives."""
    host = Host(keys, limits=LIMITS, network=network.prefix())
    await host.start()
    aggregator = parse_peer(network.aggregator.address, where="network.toml")
    host.learn(aggregator)
    try:
        async with Deadline(60.0):
            while True:
                try:
                    stream = await host.open(aggregator.peer_id, RECEIPTS, timeout_s=0.5)
                    await stream.send(AskHeads())
                    return await stream.receive()
                except (Unavailable, PeerError):
                    await asyncio.sleep(0.02)
    finally:
        await host.close()


def children_cpu_s():
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_restart_with_a_million_receipts_takes_less_than_five_seconds(tmp_path, kind):
    ports = dict(zip(("bootstrap_port", "aggregator_port"), free_ports(2), strict=True))
    network = init_network(tmp_path, name="net", host="127.0.0.1", params=Params(epoch_ms=86_400_000), **ports)
    seller, peer_id = KeyPair(b"\x05" * 32), keyfile.load(tmp_path / "aggregator.key").peer_id
    with running_server() if kind == "postgres" else nullcontext() as server:
        url = server.url if server is not None else ""

        def open_store():
            return PostgresStore(url, schema=schema_of(peer_id)) if url else SqliteStore(tmp_path / "aggregator.sqlite")

        asyncio.run(fill(open_store, network, seller))
        aggregator = Aggregator(tmp_path, url)
        try:
            asyncio.run(ask_until_answered(network, seller))
        finally:
            aggregator.kill()
        before_s = children_cpu_s()
        aggregator.start()
        try:
            answer = asyncio.run(ask_until_answered(network, seller))
        finally:
            aggregator.kill()
        took_s = children_cpu_s() - before_s
    assert len(answer.acknowledgements) == 256 and answer.more
    assert answer.acknowledgements[0].seq == RECEIPTS_KEPT // CHANNELS
    assert 0.1 < took_s < RESTART_S_MAX
