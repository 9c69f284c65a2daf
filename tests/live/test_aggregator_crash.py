"""kill -9 of a live aggregator at random points while receipts flow: what it promised is in one epoch, committed once, provably."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import nullcontext

import pytest
from pymerkle.proof import verify_inclusion

from quiver.identity.keys import KeyPair, verify_session
from quiver.identity.signing import PROMISE_TAG, promise_digest, receipt_digest
from quiver.ids import compute_domain
from quiver.live import keyfile
from quiver.live.chain.local import LocalLedger
from quiver.live.clock import LiveClock
from quiver.live.config_network import parse_account, parse_peer
from quiver.live.devnet_ports import free_ports
from quiver.live.init import init_network
from quiver.live.stores.postgres import PostgresStore
from quiver.live.stores.postgres_url import schema_of
from quiver.live.stores.sqlite import SqliteStore
from quiver.params import Params
from quiver.runtime import Deadline
from quiver.settlement.merkle import hash_leaf
from quiver.values.ledger import Deposit, SubmitEpoch
from tests.live.aggregators import Aggregator, read_receipts, seen
from tests.live.postgres import running_server
from tests.live.seller import Seller
from tests.unit.settlement.test_merkle import as_pymerkle

EPOCH_MS = 500
SELLERS = 5
# How long a life lasts after its first answer: sometimes not even an epoch, sometimes two.
LIFE_S_MAX = 1.0
# Every so many lives end while the process is still starting.
EARLY_DEATHS = 5
START_S = 1.5


class Story:
    """A network of one aggregator, its sellers, and what came of it."""

    def __init__(self, directory, network, database_url, *, kills, pace_s):
        self.directory, self.network, self.url, self.kills = directory, network, database_url, kills
        self.payer = KeyPair(b"g" * 32)
        self.sellers = [Seller(number, self.payer, network.prefix(), pace_s=pace_s) for number in range(1, SELLERS + 1)]
        self.proofs, self.states, self.roots_shown, self.events, self.work = {}, {}, {}, [], []

    async def run(self, rng):
        where = {"contract": self.network.chain.contract, "aggregator": self.network.aggregator.account}
        ledger = LocalLedger(
            self.directory / self.network.chain.path, self.payer.account, chain_id=self.network.chain.id,
            params=self.network.params, clock=LiveClock(),
            **{name: parse_account(text, where=name) for name, text in where.items()},
        )  # fmt: skip
        await ledger.submit(Deposit(sender=self.payer.account, amount=SELLERS * 1_000_000))
        aggregator, stop = Aggregator(self.directory, self.url), asyncio.Event()
        first_epoch = LiveClock().utc_ms() // EPOCH_MS
        try:
            for seller in self.sellers:
                await seller.start(ledger, parse_peer(self.network.aggregator.address, where="network.toml"))
            work = self.work = [asyncio.ensure_future(seller.sell(stop)) for seller in self.sellers]
            watch = asyncio.ensure_future(self.sellers[0].watch_roots(EPOCH_MS, LiveClock().utc_ms, stop))
            await self._kill_often(aggregator, rng)
            await self._each_is_served()
            stop.set()
            await asyncio.gather(*work)
            self.roots_shown = await watch
            await self._collect(ledger, range(first_epoch, LiveClock().utc_ms() // EPOCH_MS + 1))
        except BaseException as error:
            for number, seller in enumerate(self.sellers):
                told = f"seller {number}: {len(seller.acknowledged)} receipts taken, last failure {seller.failure!r}"
                error.add_note(told)
            raise
        finally:
            stop.set()
            aggregator.kill()
            for seller in self.sellers:
                await seller.transport.close()
            await ledger.close()

    async def _kill_often(self, aggregator, rng):
        for number in range(self.kills):
            if number % EARLY_DEATHS == EARLY_DEATHS - 1:
                await asyncio.sleep(rng.uniform(0.0, START_S))
            else:
                # This very process has served somebody, so the kill is in the middle of work.
                taken = self._taken()
                await seen(lambda taken=taken: self._taken() > taken, self.work)
                await asyncio.sleep(rng.uniform(0.0, LIFE_S_MAX))
            aggregator.kill()
            aggregator.start()

    async def _each_is_served(self):
        marks = [len(seller.acknowledged) for seller in self.sellers]
        await seen(
            lambda: all(len(seller.acknowledged) > mark for seller, mark in zip(self.sellers, marks, strict=True)),
            self.work,
        )

    def _taken(self):
        return sum(len(seller.acknowledged) for seller in self.sellers)

    async def _collect(self, ledger, epochs):
        """The last epoch is committed when each channel's newest acknowledged receipt is under a leaf."""
        for seller in self.sellers:
            newest = max(seller.acknowledged)
            async with Deadline(60.0):
                await seller.wait_for_proof(newest, lambda: LiveClock().utc_ms() // EPOCH_MS)
            self.proofs[seller.channel] = await seller.ask_proofs(epochs)
        for found in self.proofs.values():
            for one in found:
                await seen(lambda epoch=one.epoch: ledger.epoch(epoch) is not None)
                self.states[one.epoch] = ledger.epoch(one.epoch)
        ledger.validate()
        while events := ledger.events(len(self.events)):
            self.events += events

    # ---- what must hold

    def check(self, kept, signer):
        times = Counter((channel, seq) for _, channel, seq in kept)
        assert set(times.values()) == {1}, "a receipt is in two epochs"
        epoch_of = {(channel, seq): epoch for epoch, channel, seq in kept}
        for seller in self.sellers:
            leaves = {one.epoch: one.leaf for one in self.proofs[seller.channel]}
            self.check_receipts(seller, leaves, epoch_of, kept)
            self.check_promises(seller, leaves, signer)
        self.check_roots()

    def check_receipts(self, seller, leaves, epoch_of, kept):
        assert len(seller.acknowledged) > self.kills
        assert sorted(seller.acknowledged) == sorted(seq for channel, seq in epoch_of if channel == seller.channel)
        in_order = sorted(leaves.items())
        at = 0
        for seq in sorted(seller.acknowledged):
            epoch = epoch_of[seller.channel, seq]
            assert receipt_digest(kept[epoch, seller.channel, seq].receipt.body) == seller.acknowledged[seq]
            # The leaf of its epoch is the first one that covers it.
            while in_order[at][1].seq < seq:
                at += 1
            assert epoch == in_order[at][0]
        for leaf in leaves.values():
            assert (leaf.cum, leaf.head) == (seller.heads[leaf.seq].cum, seller.heads[leaf.seq].head)

    def check_promises(self, seller, leaves, signer):
        domain = compute_domain(PROMISE_TAG, seller.chain_id, seller.contract)
        # Only while the very first life had not bonded yet.
        assert seller.promises and seller.unpromised * 10 < len(seller.acknowledged)
        for epoch, promise in seller.promises.items():
            assert verify_session(signer, promise_digest(domain, promise), promise.signature)
            assert leaves[epoch].seq >= promise.seq
            assert (promise.cum, promise.head) == (seller.heads[promise.seq].cum, seller.heads[promise.seq].head)

    def check_roots(self):
        posted = [event.transaction.commitment for event in self.events if isinstance(event.transaction, SubmitEpoch)]
        assert len({commitment.epoch for commitment in posted}) == len(posted), "an epoch has two roots"
        by_epoch = {commitment.epoch: commitment for commitment in posted}
        for epoch, shown in self.roots_shown.items():
            assert shown == {by_epoch[epoch]}, "another root was shown than posted"
        assert len(self.roots_shown) > self.kills / 10
        # Each leaf is under its root by somebody else's arithmetic.
        for found in self.proofs.values():
            for one in found:
                held = self.states[one.epoch].commitment
                assert held == one.commitment
                verify_inclusion(
                    hash_leaf(one.leaf), held.root, as_pymerkle(hash_leaf(one.leaf), one.proof),
                    index=one.proof.index + 1, size=held.count, algorithm="sha256",
                )  # fmt: skip


def kill_and_check(tmp_path, kind, kills, rng):
    ports = dict(zip(("bootstrap_port", "aggregator_port"), free_ports(2), strict=True))
    network = init_network(tmp_path, name="net", host="127.0.0.1", params=Params(epoch_ms=EPOCH_MS), **ports)
    keys = keyfile.load(tmp_path / "aggregator.key")
    with running_server() if kind == "postgres" else nullcontext() as server:
        url = server.url if server is not None else ""
        story = Story(tmp_path, network, url, kills=kills, pace_s=0.02 if kills > 10 else 0.0)
        asyncio.run(story.run(rng))
        if server is None:
            kept = asyncio.run(read_receipts(lambda: SqliteStore(tmp_path / "aggregator.sqlite")))
        else:
            kept = asyncio.run(read_receipts(lambda: PostgresStore(url, schema=schema_of(keys.peer_id))))
    story.check(kept, keys.session_address)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.long)])
def test_every_promised_receipt_is_in_exactly_one_epoch_and_no_epoch_has_two_roots(tmp_path, kind, kills):
    seed = int(os.environ.get("QUIVER_KILL_SEED", random.SystemRandom().getrandbits(32)))
    try:
        kill_and_check(tmp_path, kind, kills, random.Random(seed))
    except BaseException as error:
        error.add_note(f"replay the kills: QUIVER_KILL_SEED={seed}")
        raise
