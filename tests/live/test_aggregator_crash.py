"""kill -9 of a live aggregator while receipts flow: what it acknowledged is committed once, and provably."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import Counter

import msgspec
from pymerkle.proof import verify_inclusion

from quiver.aggregator.window import RECEIPTS as RECEIPT_ROWS
from quiver.aggregator.window import KeptReceipt
from quiver.identity.keys import KeyPair
from quiver.identity.signing import receipt_digest
from quiver.live.chain.local import LocalLedger
from quiver.live.clock import LiveClock
from quiver.live.config import parse_account, parse_peer
from quiver.live.devnet import free_ports, make_environment
from quiver.live.init import init_network
from quiver.live.stores.sqlite import SqliteStore
from quiver.params import Params
from quiver.runtime import Deadline
from quiver.settlement.merkle import hash_leaf
from quiver.values.ledger import Deposit
from tests.live.seller import Seller
from tests.unit.settlement.test_merkle import as_pymerkle

EPOCH_MS = 500
KILLS = 4
SELLERS = 5


class Aggregator:
    """The process. It may be killed and started again."""

    def __init__(self, directory):
        self._directory = directory
        self.start()

    def start(self):
        command = [
            sys.executable,
            "-m",
            "quiver.live",
            "--until-stdin-ends",
            "aggregator",
            "--config",
            "aggregator.toml",
        ]
        with open(self._directory / "aggregator.log", "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory, env=make_environment(), stdin=subprocess.PIPE, stderr=log
            )

    def kill(self):
        """SIGKILL."""
        assert self._process.poll() is None, (self._directory / "aggregator.log").read_text()[-2000:]
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()


async def seen(condition):
    async with Deadline(15.0):
        while not condition():
            await asyncio.sleep(0.005)


async def crash_often(directory, network, payer):
    """(sellers, proofs by channel, ledger states by epoch) after `KILLS` crashes under load."""
    where = {"contract": network.chain.contract, "aggregator": network.aggregator.account}
    ledger = LocalLedger(
        directory / network.chain.path, payer.account, chain_id=network.chain.id, params=network.params,
        clock=LiveClock(), **{name: parse_account(text, where=name) for name, text in where.items()},
    )  # fmt: skip
    await ledger.submit(Deposit(sender=payer.account, amount=SELLERS * 1_000_000))
    sellers = [Seller(number, payer, network.prefix()) for number in range(1, SELLERS + 1)]
    aggregator, stop = Aggregator(directory), asyncio.Event()
    first_epoch = LiveClock().utc_ms() // EPOCH_MS
    try:
        for seller in sellers:
            await seller.start(ledger, parse_peer(network.aggregator.address, where="network.toml"))
        selling = [asyncio.ensure_future(seller.sell(stop)) for seller in sellers]
        for kill in range(KILLS):
            # Every seller has been served by this very process, so every kill is in the middle of work.
            marks = [len(seller.acknowledged) for seller in sellers]
            await seen(
                lambda marks=marks, kill=kill: all(
                    len(seller.acknowledged) >= mark + 9 + 6 * kill for seller, mark in zip(sellers, marks, strict=True)
                ),
            )
            aggregator.kill()
            aggregator.start()
        marks = [len(seller.acknowledged) for seller in sellers]
        await seen(lambda: all(len(s.acknowledged) > mark for s, mark in zip(sellers, marks, strict=True)))
        stop.set()
        await asyncio.gather(*selling)
        last_epoch = LiveClock().utc_ms() // EPOCH_MS
        epochs = range(first_epoch, last_epoch + 1)
        proofs = {}
        async with Deadline(15.0):
            # The last epoch is committed when each channel's newest acknowledged receipt is under a leaf.
            for seller in sellers:
                newest = max(seller.acknowledged)
                while not (found := await seller.ask_proofs(epochs)) or max(one.leaf.seq for one in found) < newest:
                    await asyncio.sleep(0.1)
                proofs[seller.channel] = found
            while any(ledger.epoch(one.epoch) is None for found in proofs.values() for one in found):
                await asyncio.sleep(0.05)
        states = {one.epoch: ledger.epoch(one.epoch) for found in proofs.values() for one in found}
        ledger.validate()
        return sellers, proofs, states
    finally:
        stop.set()
        aggregator.kill()
        for seller in sellers:
            await seller.transport.close()
        await ledger.close()


def test_every_acknowledged_receipt_is_in_exactly_one_epoch_after_kill_9_and_its_proof_verifies(tmp_path):
    ports = dict(zip(("bootstrap_port", "aggregator_port"), free_ports(2, socket.SOCK_DGRAM), strict=True))
    network = init_network(tmp_path, name="net", host="127.0.0.1", params=Params(epoch_ms=EPOCH_MS), **ports)
    sellers, proofs, states = asyncio.run(crash_often(tmp_path, network, KeyPair(b"g" * 32)))

    kept = asyncio.run(read_receipts(tmp_path / "aggregator.sqlite"))
    times = Counter((channel, seq) for _, channel, seq in kept)
    assert set(times.values()) == {1}
    by_name = {(channel, seq): (epoch, row) for (epoch, channel, seq), row in kept.items()}
    for seller in sellers:
        leaves = {one.epoch: one.leaf for one in proofs[seller.channel]}
        assert len(seller.acknowledged) >= KILLS * 9 and list(seller.acknowledged) == list(
            by_channel(times, seller.channel)
        )
        for seq, digest in seller.acknowledged.items():
            epoch, row = by_name[seller.channel, seq]
            assert receipt_digest(row.receipt.body) == digest
            # The leaf of its epoch is the first one that covers it.
            assert epoch == min(number for number, leaf in leaves.items() if leaf.seq >= seq)
        for leaf in leaves.values():
            assert (leaf.cum, leaf.head) == (seller.heads[leaf.seq].cum, seller.heads[leaf.seq].head)
    # Commitments of several crashes lie on the ledger, each leaf under one of them by somebody else's arithmetic.
    assert len(states) >= KILLS
    for found in proofs.values():
        for one in found:
            held = states[one.epoch].commitment
            assert held == one.commitment
            verify_inclusion(
                hash_leaf(one.leaf), held.root, as_pymerkle(hash_leaf(one.leaf), one.proof),
                index=one.proof.index + 1, size=held.count, algorithm="sha256",
            )  # fmt: skip


def by_channel(times, channel):
    """Sequence numbers the aggregator kept of a channel, in order."""
    return sorted(seq for owner, seq in times if owner == channel)


async def read_receipts(path):
    """(epoch, channel, seq) -> row, from the file a killed process left behind."""
    store = SqliteStore(path)
    try:
        decoder = msgspec.msgpack.Decoder(KeptReceipt)
        return {
            (int.from_bytes(key[:8], "big"), key[8:40], int.from_bytes(key[40:], "big")): decoder.decode(row)
            for key, row in store.scan(RECEIPT_ROWS)
        }
    finally:
        await store.close()
