"""Stores that older code wrote, by real traffic, open under this code with every row in its place."""

from __future__ import annotations

import asyncio
import random
import sqlite3

import msgspec
import pytest

from quiver.aggregator.service import AggregatorService
from quiver.aggregator.window import CHANNELS, LEAVES, RECEIPTS
from quiver.identity.keys import KeyPair
from quiver.live.clock import LiveClock
from quiver.live.signer import LiveSigner, SignaturePool
from quiver.live.stores.sqlite import SqliteStore
from quiver.live.stores.version import STORE_VERSION
from quiver.params import Params
from quiver.receipts.log import PayerLog, ProviderLog, payer_channels, provider_channels
from quiver.runtime import Runtime
from quiver.values.frames import AskProof
from quiver.values.receipt import ChannelHead
from tests.bench.ingest import AGGREGATOR, Dialogue, Surroundings, TrustingVerifier, make_submission, open_channel
from tests.live import old_release

PARAMS = Params(epoch_ms=2000)


@pytest.fixture(scope="module", params=old_release.releases(), ids=lambda commit: commit[:12])
def network(request, tmp_path_factory):
    return old_release.run_old_network(request.param, tmp_path_factory.mktemp("old"))


def rows_of(path, table):
    """Key -> row without a type, read by somebody else than the store."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT key, value FROM rows WHERE tab = ? ORDER BY key", (table,)).fetchall()
    connection.close()
    return {key: msgspec.msgpack.decode(value) for key, value in rows}


def version_of(path):
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return version


def test_an_aggregators_store(network):
    path = network / "aggregator.sqlite"
    channels, leaves, receipts = (rows_of(path, table) for table in (CHANNELS, LEAVES, RECEIPTS))
    assert version_of(path) <= STORE_VERSION
    assert len(channels) >= 1 and len(receipts) >= 2

    async def story():
        store, pool = SqliteStore(path), SignaturePool()
        clock, known = LiveClock(), {}
        around = Surroundings(known, clock)
        service = AggregatorService(
            Runtime(
                clock=clock, transport=around, store=store, signer=LiveSigner(AGGREGATOR, pool), verifier=TrustingVerifier(),
                ledger=around, trace=around, rng=random.Random(1), params=PARAMS,
            )
        )  # fmt: skip
        service.window.validate()
        for channel, row in channels.items():
            assert service.window.head(channel) == ChannelHead(**row["head"])
        committed = set(rows_of(path, "aggregator_commitments"))
        entries = {
            entry.leaf.epoch.to_bytes(8, "big") + entry.leaf.channel: entry.leaf
            for epoch in {int.from_bytes(key[:8], "big") for key in leaves}
            for entry in service.window.entries(epoch)
        }
        # What is in no closed epoch is open, leaf by leaf.
        assert {key: leaf.cum for key, leaf in entries.items()} == {
            key: row["leaf"]["cum"] for key, row in leaves.items() if key[:8] not in committed
        }
        # It goes on where the old one was killed: the next receipts of a channel, then the end of the epoch.
        channel, row = next(iter(channels.items()))
        provider = KeyPair(b"n" * 32)
        state = msgspec.structs.replace(open_channel(provider, 0), channel=channel)
        known[channel] = state
        frame, head = make_submission(provider, state, ChannelHead(**row["head"]), 3, is_signed=False)
        dialogue = Dialogue(provider.peer_id, [frame])
        await service.serve(dialogue)
        assert dialogue.accepted == 3 and service.window.head(channel) == head
        epoch = service.window.epoch_at(clock.utc_ms())
        while service.window.is_open(epoch):
            await asyncio.sleep(0.1)
            await service.closing.close_due_epochs()
        proof = service.answers.prove(AskProof(epoch=epoch, channel=channel))
        assert (proof.leaf.seq, proof.leaf.head) == (head.seq, head.head)
        # Of an epoch that the old code closed there may be no page to prove from: that is said, not a crash.
        for key in committed:
            old = service.answers.prove(AskProof(epoch=int.from_bytes(key, "big"), channel=channel))
            assert old.epoch == int.from_bytes(key, "big")
        await store.close()
        pool.close()

    asyncio.run(story())
    assert version_of(path) == STORE_VERSION
    assert rows_of(path, RECEIPTS).items() >= receipts.items()


def test_a_providers_and_a_gateways_store(network):
    async def look(path, tables, channels_of, log):
        kept = {table: rows_of(path, table) for table in tables}
        store = SqliteStore(path)
        logs = [log.load(store, terms) for terms in channels_of(store)]
        await store.close()
        return kept, logs

    sold = 0
    for path in network.glob("provider-*.sqlite"):
        kept, logs = asyncio.run(look(path, ("provider_channels", "provider_receipts"), provider_channels, ProviderLog))
        assert len(logs) == len(kept["provider_channels"])
        for one in logs:
            one.validate()
            row = kept["provider_channels"][one.terms.channel]
            assert one.acknowledged.cum == (row["last"]["cum"] if row["last"] else 0)
            seqs = [key[32:] for key in kept["provider_receipts"] if key[:32] == one.terms.channel]
            newest = int.from_bytes(max(seqs), "big") if seqs else row["submitted"]["seq"]
            assert one.head.seq == newest
            sold += one.head.seq
        assert version_of(path) == STORE_VERSION
    assert sold >= 2
    kept, logs = asyncio.run(
        look(
            network / "gateway.sqlite",
            ("payer_channels",),
            lambda store: [terms for _, terms in payer_channels(store)],
            PayerLog,
        )
    )
    assert len(logs) == len(kept["payer_channels"]) >= 1
    signed = {one.terms.channel: one.head.cum for one in logs}
    assert signed == {key: row["last"]["cum"] if row["last"] else 0 for key, row in kept["payer_channels"].items()}
    assert sum(signed.values()) > 0
