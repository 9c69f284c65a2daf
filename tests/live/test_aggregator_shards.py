"""Three shards and their committer as processes: one root over all, and kill -9 of a shard that has promised loses nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack

import httpx
from pymerkle.proof import verify_inclusion

from quiver.identity.keys import KeyPair, verify_session
from quiver.identity.signing import PROMISE_TAG, promise_digest
from quiver.ids import compute_domain
from quiver.live import keyfile
from quiver.live.chain.local import LocalLedger
from quiver.live.clock import LiveClock
from quiver.live.config_network import load_network, parse_account, parse_peer
from quiver.live.devnet import MOCK_MODEL, Devnet
from quiver.live.devnet_ports import free_ports
from quiver.live.init import init_network, shard_names
from quiver.live.stores.sqlite import SqliteStore
from quiver.params import Params
from quiver.runtime import Deadline
from quiver.settlement.merkle import hash_leaf
from quiver.values.ledger import Claim, ClaimBatch, Deposit, SubmitEpoch
from tests.live.aggregators import Aggregator, read_receipts, seen
from tests.live.network import events
from tests.live.seller import Seller
from tests.live.waiting import until
from tests.unit.settlement.test_merkle import as_pymerkle

EPOCH_MS = 2000
SHARDS, SELLERS_EACH = 3, 2
NAMES = shard_names(SHARDS)
# A shard is killed while this much of its epoch is left at least, so that it can't have handed it over.
LEFT_MS = 800


def now_ms():
    return LiveClock().utc_ms()


def open_ledger(directory, network, account):
    where = {"contract": network.chain.contract, "aggregator": network.aggregator.account}
    return LocalLedger(
        directory / network.chain.path, account, chain_id=network.chain.id, params=network.params, clock=LiveClock(),
        **{name: parse_account(text, where=name) for name, text in where.items()},
    )  # fmt: skip


class Hall:
    """`async with`: processes that run, and sellers of each shard that sell."""

    def __init__(self, directory):
        bootstrap, aggregator, *shards = free_ports(2 + SHARDS)
        self.directory = directory
        self.network = init_network(
            directory, name="net", host="127.0.0.1", bootstrap_port=bootstrap, aggregator_port=aggregator,
            shard_ports=shards, params=Params(epoch_ms=EPOCH_MS),
        )  # fmt: skip
        self.payer, self.stop = KeyPair(b"g" * 32), asyncio.Event()
        self.addresses = [parse_peer(text, where="") for text in self.network.aggregators[1:]]
        self.sellers = [[] for _ in NAMES]
        "By number of the shard that owns their account."

    @property
    def everybody(self):
        return [seller for some in self.sellers for seller in some]

    def make_sellers(self):
        number = 0
        while any(len(some) < SELLERS_EACH for some in self.sellers):
            number += 1
            account = KeyPair(bytes([number]) * 32).account
            at = self.network.shards.number_of(self.network.shards.peer_of(account))
            if len(self.sellers[at]) < SELLERS_EACH:
                self.sellers[at].append(Seller(number, self.payer, self.network.prefix(), pace_s=0.05))

    async def __aenter__(self):
        self._stack = await AsyncExitStack().__aenter__()
        self.make_sellers()
        self.ledger = open_ledger(self.directory, self.network, self.payer.account)
        self._stack.push_async_callback(self.ledger.close)
        await self.ledger.submit(Deposit(sender=self.payer.account, amount=len(self.everybody) * 1_000_000))
        self.processes = {}
        for name in ("aggregator", *NAMES):
            self.processes[name] = Aggregator(self.directory, name=name)
            self._stack.callback(self.processes[name].end)
        for number, some in enumerate(self.sellers):
            for seller in some:
                await seller.start(self.ledger, self.addresses[number])
                self._stack.push_async_callback(seller.transport.close)
        self.work = [asyncio.ensure_future(seller.sell(self.stop)) for seller in self.everybody]
        return self

    async def __aexit__(self, *error):
        await self.rest()
        await self._stack.__aexit__(*error)

    async def rest(self):
        """Nobody sells any more."""
        self.stop.set()
        await asyncio.gather(*self.work)

    async def seen(self, condition):
        await seen(condition, self.work)

    def root(self, epoch):
        return self.ledger.epoch(epoch)

    def promised(self, epoch):
        """Who has a promise for it."""
        return [seller for seller in self.everybody if epoch in seller.promises]

    async def claim(self):
        """Every seller takes its money with the proof that its own shard gives."""
        paid = {}
        for seller in self.everybody:
            answers = await seller.ask_proofs(sorted(seller.promises))
            newest = max(answers, key=lambda answer: answer.leaf.seq)
            own = open_ledger(self.directory, self.network, seller.keys.account)
            await own.submit(
                Claim(
                    sender=seller.keys.account, leaf=newest.leaf, proof=newest.proof,
                    acknowledgement=newest.acknowledgement,
                )
            )  # fmt: skip
            paid[seller.channel] = own.balance(seller.keys.account)
            assert paid[seller.channel] == seller.heads[newest.leaf.seq].cum == newest.leaf.cum
            await own.close()
            self.check_promises(seller, {answer.epoch: answer for answer in answers})
        return paid

    def check_promises(self, seller, answers):
        signer = keyfile.load(self.directory / "aggregator.key")
        domain = compute_domain(PROMISE_TAG, seller.chain_id, seller.contract)
        for epoch, promise in seller.promises.items():
            answer, posted = answers[epoch], self.root(epoch)
            assert verify_session(signer.session_address, promise_digest(domain, promise), promise.signature)
            assert posted.poster == signer.account and posted.commitment == answer.commitment
            assert answer.leaf.seq >= promise.seq
            assert (answer.leaf.cum, answer.leaf.head) == (
                seller.heads[answer.leaf.seq].cum, seller.heads[answer.leaf.seq].head,
            )  # fmt: skip
            verify_inclusion(
                hash_leaf(answer.leaf), posted.commitment.root, as_pymerkle(hash_leaf(answer.leaf), answer.proof),
                index=answer.proof.index + 1, size=posted.commitment.count, algorithm="sha256",
            )  # fmt: skip


async def check_stores(hall):
    """Each acknowledged receipt is in the store of its own shard, in one epoch; elsewhere there is none."""
    for number, name in enumerate(("aggregator", *NAMES)):
        kept = await read_receipts(lambda name=name: SqliteStore(hall.directory / f"{name}.sqlite"))
        times = Counter((channel, seq) for _, channel, seq in kept)
        assert set(times.values()) <= {1}
        own = hall.sellers[number - 1] if number else []
        assert {channel for channel, _ in times} == {seller.channel for seller in own}
        assert set(times) >= {(seller.channel, seq) for seller in own for seq in seller.acknowledged}


def play(directory, story):
    """A story while everybody sells; afterwards all is committed, claimed and checked."""

    async def main():
        async with Hall(directory) as hall:
            await hall.seen(lambda: all(seller.promises for seller in hall.everybody))
            await story(hall)
            await hall.rest()
            for seller in hall.everybody:
                # Of its own shard, which takes a root back a moment after the ledger has it.
                async with Deadline(30.0):
                    await seller.wait_for_proof(max(seller.acknowledged), lambda: now_ms() // EPOCH_MS)
            await hall.claim()
            hall.ledger.validate()
            posted = [
                event.transaction.commitment.epoch
                for event in hall.ledger.events(0)
                if isinstance(event.transaction, SubmitEpoch)
            ]
            assert len(set(posted)) == len(posted)
        await check_stores(hall)

    asyncio.run(main())


def test_one_root_holds_the_leaves_of_three_shards_and_every_provider_claims_with_its_shards_proof(tmp_path):
    async def story(hall):
        # An epoch in which everybody has a promise is under one root, with a leaf for each.
        await hall.seen(lambda: any(len(hall.promised(epoch)) == len(hall.everybody) for epoch in recent()))
        epoch = next(epoch for epoch in recent() if len(hall.promised(epoch)) == len(hall.everybody))
        await hall.seen(lambda: hall.root(epoch) is not None)
        assert hall.root(epoch).commitment.count == len(hall.everybody)

    play(tmp_path, story)


def recent():
    current = now_ms() // EPOCH_MS
    return range(current - 8, current + 1)


def test_a_shard_killed_before_it_handed_over_delays_the_epoch_and_loses_nothing(tmp_path):
    async def story(hall):
        dead, others = hall.sellers[1], [hall.sellers[0], hall.sellers[2]]
        epoch = 0

        def has_just_promised():
            nonlocal epoch
            epoch = now_ms() // EPOCH_MS
            return EPOCH_MS - now_ms() % EPOCH_MS > LEFT_MS and all(epoch in one.promises for one in dead)

        await hall.seen(has_just_promised)
        hall.processes[NAMES[1]].kill()
        assert now_ms() // EPOCH_MS == epoch
        # The others go on with the next epochs, and the committer waits.
        await hall.seen(lambda: all(max(one.promises) >= epoch + 2 for some in others for one in some))
        assert hall.root(epoch) is None and hall.root(epoch + 1) is None
        assert all(max(one.promises) == epoch for one in dead)
        hall.processes[NAMES[1]].start()
        await hall.seen(lambda: hall.root(epoch + 1) is not None and all(max(one.promises) > epoch for one in dead))
        assert hall.root(epoch).commitment.count == len(hall.promised(epoch)) >= SELLERS_EACH
        # Of the epoch after it the dead shard has nothing.
        assert hall.root(epoch + 1).commitment.count == len(hall.promised(epoch + 1))

    play(tmp_path, story)


def test_a_devnet_with_two_shards_pays_its_providers_by_proof(tmp_path):
    with Devnet(tmp_path / "net", aggregators=2, epoch_ms=3000, speed=10.0, chain="local") as devnet:
        network = load_network(devnet.directory / "network.toml")
        accounts = {keyfile.load(devnet.directory / f"{name}.key").account: name for name in devnet.providers}
        ledger = open_ledger(devnet.directory, network, next(iter(accounts)))

        def claimed():
            body = json.dumps({"model": MOCK_MODEL, "prompt": "Pay for this", "max_tokens": 10}).encode()
            httpx.post(f"{devnet.gateway_url}/generate", content=body, timeout=20).raise_for_status()
            moves = [event.transaction for event in ledger.events(0)]
            return {move.sender for move in moves if isinstance(move, Claim | ClaimBatch)} >= set(accounts)

        until(claimed, "a claim with a proof by each provider", timeout_s=60.0)
        for account, name in accounts.items():
            assert ledger.balance(account) > 0
            issued = {event["channel"] for event in events(devnet, name, "receipt_issued")}
            taken = {
                shard: {event["channel"] for event in events(devnet, shard, "receipts_ingested")} for shard in NAMES[:2]
            }
            own = NAMES[network.shards.number_of(network.shards.peer_of(account))]
            assert issued & taken[own] and not any(issued & taken[shard] for shard in taken if shard != own)
        assert events(devnet, "aggregator", "epoch_committed") and not events(devnet, "aggregator", "receipts_ingested")
        asyncio.run(ledger.close())
