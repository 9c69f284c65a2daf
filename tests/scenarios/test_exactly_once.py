"""Payment is exactly once under retry, hedge, failover and resume: random small worlds, and a second bookkeeper at the wire.

Each world has providers that are slow, break, fall silent or lose their power, connections that are cut, clients that leave, and
sometimes a gateway that dies. What holds in all of them: the client's text is one text; a provider is paid for what it
sent, once, and for its prompt once; nobody is paid for anything else; nothing stays reserved; nobody is blamed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import cache

import pytest
from msgspec.structs import replace

from quiver import trace
from quiver.errors import Busy, RequestRejected
from quiver.gateway.hedging import HedgeTerms
from quiver.gateway.service import GatewayService
from quiver.runtime import Nursery
from quiver.selection.random_choice import RandomChoice
from quiver.values.request import Failure, Final, Principal, TokenChunk
from tests.scenarios.author import Desk, words
from tests.scenarios.stage import MODEL, NAME
from tests.scenarios.wiretap import Wiretap

WORDS = 12
DEADLINE_MS = 12_000
# By then every deadline has passed, every idle connection is gone, every dead node is back.
QUIET_AT_S = 20.0
SEEDS = range(40)


class Reader:
    """One client: its request, and what it got."""

    def __init__(self, number, rng):
        self.number = number
        self.starts_s = rng.uniform(0.0, 5.0)
        self.leaves_after_s = rng.uniform(0.1, 2.0) if rng.random() < 0.2 else None
        self.max_tokens = rng.choice((3, WORDS, 100))
        self.text, self.last, self.task, self.has_asked = "", None, None, False

    async def read(self, world):
        await world.clock.sleep(self.starts_s)
        self.has_asked = True
        request = world.request(self.number, max_tokens=self.max_tokens)
        request = replace(request, deadline_ms=world.clock.utc_ms() + DEADLINE_MS)
        try:
            async for event in world.gateway.service.handle(request, Principal(name="client")):
                if isinstance(event, TokenChunk):
                    self.text += event.text
                else:
                    self.last = event
        except (Busy, RequestRejected):
            pass

    async def live(self, world):
        self.task = asyncio.ensure_future(self.read(world))
        if self.leaves_after_s is not None:
            await world.clock.sleep(self.starts_s + self.leaves_after_s)
            self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if not self.task.cancelled() and (error := self.task.exception()) is not None:
            raise error


class World(Desk):
    """A desk with random trouble."""

    def __init__(self, seed):
        self.dice = dice = random.Random(seed)
        super().__init__(dice.randint(2, 5), slots=dice.choice((1, 4)), tokens=WORDS)
        for typist in self.typists:
            # 0.5 s, and 0.3 s of silence before 0.2 s or a little less: the first words of both are on the wire together.
            typist.prefill_s = dice.choice((0.05, 0.195, 0.2, 0.5, 0.5, 2.0, 8.0))
            typist.every_s = dice.choice((0.02, 0.1, 0.3))
            typist.breaks_after = dice.randrange(WORDS) if dice.random() < 0.25 else None
            typist.stalls_after = dice.randrange(WORDS) if dice.random() < 0.15 else None
        self.terms = dice.choice((None, HedgeTerms(after_s=0.3, share=1.0), HedgeTerms(after_s=1.0, share=0.5)))
        self.resume = dice.random() < 0.75
        self.readers = [Reader(number, dice) for number in range(1, 13)]
        self.crashed, self.cut, self.counts = set(), set(), Counter()
        self.make_service()

    def make_service(self):
        gateway = self.gateway
        gateway.service = GatewayService(
            gateway.runtime, RandomChoice(), {NAME: MODEL}, gateway._finder(self.given), hedging=self.terms,
            resume=self.resume,
        )  # fmt: skip

    async def crash_provider(self, node):
        await self.clock.sleep(self.dice.uniform(0.3, 7.0))
        self.crashed.add(node.peer_id)
        node.crash()
        await self.clock.sleep(self.dice.uniform(0.5, 4.0))
        node.revive()
        await node.start([], announce=False)

    async def cut_link(self, node):
        await self.clock.sleep(self.dice.uniform(0.3, 7.0))
        if (link := self.gateway.service.purse.link(node.peer_id)) is not None:
            self.cut.add(node.peer_id)
            link._stream.reset(0)

    async def crash_gateway(self):
        await self.clock.sleep(self.dice.uniform(0.5, 6.0))
        self.counts["gateway crashes"] += 1
        self.cut |= {node.peer_id for node in self.providers}
        for reader in self.readers:
            if reader.has_asked:
                reader.task.cancel()
        self.gateway.crash()
        await self.clock.sleep(1.5)
        self.gateway.revive()
        self.make_service()
        await self.gateway.start([])

    async def story(self, _):
        dice, began_s = self.dice, self.clock.now()
        async with Nursery() as nursery:
            for reader in self.readers:
                nursery.start(reader.live(self))
            for node in self.providers:
                if dice.random() < 0.35:
                    nursery.start(self.crash_provider(node))
                if dice.random() < 0.3:
                    nursery.start(self.cut_link(node))
            if dice.random() < 0.25:
                nursery.start(self.crash_gateway())
        await self.clock.sleep(max(0.0, began_s + QUIET_AT_S - self.clock.now()))
        await self.reconnect()
        await self.clock.sleep(2.0)

    async def reconnect(self):
        """Whoever was lost is dialled again, ejected or not: what it sent last is told and signed for."""
        service = self.gateway.service
        await service.pool.prepare(MODEL)
        for node in self.providers:
            offer = service.table.offer(node.peer_id, MODEL, self.clock.now())
            assert offer is not None
            await service.pool.connect(offer)

    # ---- what holds

    def check(self, tap):
        self.check_texts()
        self.check_money(tap)
        for typist, node in zip(self.typists, self.providers, strict=True):
            assert node.service.admission.admitted == 0
            assert self.gateway.service.table.in_flight(node.peer_id) == 0
            assert node.peer_id in self.crashed or typist.typing == 0
            for channel in node.service.channels.values():
                assert channel.exposure == 0, "everything is signed for, and nothing is reserved"
        assert all(link.channel._held == 0 for link in self.gateway.service.purse.links.values())
        assert not self.events.of(trace.EvidenceRecorded), "all are honest here"

    def check_texts(self):
        for reader in self.readers:
            count = len(reader.text.split())
            assert reader.text == words(count), "one continuous text"
            self.counts["words"] += count
            if isinstance(reader.last, Final):
                assert count == reader.last.completion_tokens == min(WORDS, reader.max_tokens)
                self.counts["completed"] += 1
                self.counts["resumed"] += reader.last.resumed > 0
                self.counts["hedged"] += reader.last.hedged
            elif isinstance(reader.last, Failure):
                assert count == reader.last.delivered_tokens
                self.counts["failed"] += 1

    def check_money(self, tap):
        paid, told = tap.paid(), Counter()
        for (peer, request_id), (prompt, completion, credits) in paid.items():
            sent, received = tap.sent[peer, request_id], tap.received[peer, request_id]
            (estimate,) = tap.estimates[peer, request_id]
            assert credits == 100 * prompt + 1_000 * completion
            assert prompt == estimate, "the prompt once, as this provider read it"
            assert completion <= sent
            assert received <= sent
            if peer not in self.crashed:
                assert completion == sent
                if peer not in self.cut:
                    assert received == sent
            told[request_id] += credits
        for (peer, request_id), sent in tap.sent.items():
            # Without a power cut whoever sent something is paid.
            assert (peer, request_id) in paid or peer in self.crashed or not sent
        for reader in self.readers:
            if reader.last is not None:
                assert reader.last.paid_credits <= told[self.request(reader.number).request_id]
        lost = self.events.of(trace.AttemptLost)
        for event in lost:
            # A Cancel travels for 10 ms; what is sent after it has arrived would be sent in vain, and paid.
            assert tap.last_sent_s.get((event.provider, event.request_id), 0.0) <= event.at_s + 0.0101
        self.counts["losers paid"] += sum((event.provider, event.request_id) in paid for event in lost)
        self.counts["losers"] += len(lost)
        self.counts["crashes"] += len(self.crashed)


@cache
def play(seed):
    """What happened in a world in which everything held."""
    world, tap = World(seed), Wiretap()
    with tap.listening():
        world.play(world.story)
    world.check(tap)
    return world.counts


@pytest.mark.parametrize("seed", SEEDS)
def test_each_provider_is_paid_once_for_what_it_delivered_and_the_text_is_one(seed):
    assert play(seed)["words"] > 0


def test_the_worlds_hold_what_they_are_about():
    counts = sum((play(seed) for seed in SEEDS), Counter())
    for what in ("completed", "failed", "hedged", "resumed", "losers", "losers paid", "crashes", "gateway crashes"):
        assert counts[what] >= 3, (what, counts)
