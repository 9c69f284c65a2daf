"""A committer, three shards and twelve providers on a simulated network and chain."""

from __future__ import annotations

import msgspec

from quiver.aggregator.service import AggregatorService
from quiver.aggregator.shards import Shards
from quiver.errors import QuiverError
from quiver.params import Params
from quiver.settlement.contract import Contract
from quiver.values.frames import SubmitReceipts
from quiver.values.ledger import Deposit, OpenChannel
from quiver.wire.protocols import RECEIPTS
from sim.clock import SimClock
from sim.invariants import SecondBookkeeper
from sim.ledger import SimChain
from sim.loop import Environment
from sim.nodes import Node, Surroundings
from sim.rng import Substreams
from sim.signer import SimSigner, SimVerifier
from sim.trace import RunTrace
from sim.transport import Network, UniformLinks
from tests.unit.receipts.histories import CHAIN_ID, HUB, History

SHARDS, SELLERS = 3, 12
PARAMS = msgspec.structs.replace(Params.minimal(), slash_credits=100, dial_timeout_s=1.0)
DEPOSIT = 1_000_000


class ShardNode(Node):
    """A shard, or the committer."""

    def __init__(self, around, name, index, shards, poster):
        super().__init__(around, name, index)
        self.build = lambda: AggregatorService(self.runtime, detectors=(), shards=shards, poster=poster)
        self.service = self.build()

    async def start(self):
        self.spawn(self.service.run())

    async def rise(self):
        """Power on again."""
        self.revive()
        self.service = self.build()
        await self.start()


class Seller(Node):
    """A provider reduced to its receipts: one channel, whose history it hands in."""

    def __init__(self, around, name, index, channel):
        super().__init__(around, name, index)
        self.history = History(amounts=(), channel=channel)
        self.history.provider = self.signer
        self.history.terms = msgspec.structs.replace(self.history.terms, provider_key=self.signer.public_key)
        self.promises = []
        self.handed_in = 0

    async def ask(self, peer, *frames):
        stream = await self.runtime.transport.open(peer, RECEIPTS, timeout_s=1.0)
        answers = []
        for frame in frames:
            await stream.send(frame)
            answers.append(await stream.receive())
        stream.finish()
        return answers

    def batch(self):
        """What was not handed in yet, and one receipt more."""
        self.history.add(10)
        first, last = self.handed_in + 1, len(self.history.receipts)
        return SubmitReceipts(
            batch_id=last, previous=self.history.heads[first - 1], receipts=tuple(self.history.receipts[first - 1 :]),
            acknowledgement=self.history.acknowledge(last), session=bytes(20),
        )  # fmt: skip

    async def hand_in(self, peer):
        """Whether it was taken."""
        batch = self.batch()
        try:
            (answer,) = await self.ask(peer, batch)
        except QuiverError:
            return False
        self.handed_in = batch.acknowledgement.seq
        self.promises.append(answer.promise)
        return True


class Hall:
    """`play(story)` runs `await story(hall)` in virtual time; both bookkeepers agree at its end."""

    def __init__(self):
        self.env = Environment()
        self.clock = SimClock(self.env)
        self.trace, self.events = RunTrace(), []
        self.trace.subscribe(self.events.append)
        self.books = SecondBookkeeper(slash_credits=PARAMS.slash_credits)
        self.trace.subscribe(self.books.observe)
        verifier = SimVerifier()
        poster = SimSigner(1, "committer")
        self.contract = Contract(
            chain_id=CHAIN_ID, contract=HUB, aggregator=poster.account, params=PARAMS,
            verify_session=verifier.verify_session_now,
        )  # fmt: skip
        self.chain = SimChain(self.contract, self.clock, trace=self.trace, block_time_s=0.5)
        around = Surroundings(
            env=self.env, network=Network(self.env, UniformLinks(0.01), self.trace, params=PARAMS, encoded=True, idle_timeout_s=1.0),
            chain=self.chain, trace=self.trace, streams=Substreams(1), verifier=verifier, params=PARAMS,
            signatures="modelled", clock_skew_ms=20.0, seed=1,
        )  # fmt: skip
        names = [f"shard-{number}" for number in range(SHARDS)]
        ids = [SimSigner(1, name).peer_id for name in names]
        self.shards = Shards(committer=poster.peer_id, peers=tuple(ids))
        self.committer = ShardNode(around, "committer", 0, self.shards, poster)
        self.nodes = [ShardNode(around, name, 1 + n, self.shards, poster) for n, name in enumerate(names)]
        self.around, self.poster = around, poster
        self.sellers = []

    def play(self, story, *, after_s=2.0):
        """`after_s` after the start; by then the bond is on the ledger."""

        async def main():
            await self.open_channels()
            for node in (self.committer, *self.nodes):
                await node.start()
            await self.clock.sleep(after_s)
            await story(self)
            self.contract.validate()
            self.books.compare(self.contract)
            for node in self.nodes:
                node.service.window.validate()

        try:
            self.env.run_coroutine(main())
        finally:
            self.env.close()

    async def open_channels(self):
        payer = SimSigner(1, "payer")
        ledgers = {one.account: self.chain.view(one.account, one.peer_id) for one in (payer, self.poster)}
        for account, ledger in ledgers.items():
            await ledger.submit(Deposit(sender=account, amount=DEPOSIT))
        for number in range(SELLERS):
            name = f"seller-{number}"
            provider = SimSigner(1, name).account
            await ledgers[payer.account].submit(
                OpenChannel(sender=payer.account, provider=provider, session=payer.session_address, amount=500, nonce=0)
            )
            channel = self.chain.events[-1].channel
            self.sellers.append(Seller(self.around, name, 10 + number, channel))

    def shard_of(self, seller):
        return self.shards.peer_of(seller.signer.account)

    async def hand_in(self):
        """Sellers whose receipts were taken."""
        return [seller for seller in self.sellers if await seller.hand_in(self.shard_of(seller))]

    def epoch(self):
        return self.clock.utc_ms() // PARAMS.epoch_ms

    async def sleep_to_next_epoch(self):
        await self.clock.sleep((PARAMS.epoch_ms - self.clock.utc_ms() % PARAMS.epoch_ms) / 1000 + 0.1)
