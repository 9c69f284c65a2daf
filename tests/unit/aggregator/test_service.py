"""The aggregator between a provider's stream, its disk and the ledger, in virtual time."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from quiver.aggregator import closing
from quiver.aggregator.archive import MANIFESTS, NAMES, PAGES
from quiver.aggregator.epochs import COMMITMENTS, load_commitments
from quiver.aggregator.service import AggregatorService
from quiver.aggregator.window import LEAVES
from quiver.aggregator.window import RECEIPTS as RECEIPT_ROWS
from quiver.errors import PeerError, SettlementError, WireCode
from quiver.identity.signing import COMMITMENT_TAG, PROMISE_TAG, commitment_digest, promise_digest
from quiver.ids import compute_domain
from quiver.params import Params
from quiver.runtime import Runtime
from quiver.settlement.contract import Contract
from quiver.settlement.merkle import verify
from quiver.trace import EpochCommitted, EvidenceRecorded, ReceiptsIngested
from quiver.values.frames import AskHeads, AskProof, Ingested, Refused, SubmitReceipts
from quiver.values.ledger import Claim, Commitment, Deposit, OpenChannel, SubmitEpoch
from quiver.wire.protocols import RECEIPTS
from sim.clock import SimClock
from sim.ledger import SimChain
from sim.loop import Environment
from sim.signer import SimSigner, SimVerifier
from sim.store import MemoryStore
from tests.unit.receipts.histories import CHAIN_ID, HUB, History

PARAMS = Params.minimal()
replace = msgspec.structs.replace


class Listener:
    """The one thing of a transport an aggregator uses."""

    def __init__(self):
        self.handlers = {}

    def serve(self, protocol, handler):
        self.handlers[protocol.id] = handler


class Dialogue:
    """A stream that asks the given frames and keeps the answers."""

    def __init__(self, peer_id, frames):
        self.peer_id = peer_id
        self.frames = list(frames)
        self.answers = []
        self.finished = False

    async def receive(self):
        return RECEIPTS.decode(RECEIPTS.encode(self.frames.pop(0))) if self.frames else None

    async def send(self, frame):
        self.answers.append(RECEIPTS.decode(RECEIPTS.encode(frame)))

    def finish(self):
        self.finished = True


class Events(list):
    """The trace."""

    emit = list.append

    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]


class FlakyLedger:
    """Answers as the ledger does, but can lose the reply of the next submission it accepts."""

    def __init__(self, ledger):
        self._ledger = ledger
        self.lose_next_reply = False
        self.submitted = 0

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    async def submit(self, transaction):
        result = await self._ledger.submit(transaction)
        self.submitted += 1
        if self.lose_next_reply:
            self.lose_next_reply = False
            await asyncio.get_running_loop().create_future()
        return result


class World:
    """One aggregator, one provider, one payer with a channel of 1,000 credits."""

    def __init__(self, params=PARAMS, *, clock=None, block_time_s=1.0):
        """`clock`: of a real loop, in place of virtual time."""
        self.env = Environment()
        self.clock = clock or SimClock(self.env)
        self.trace = Events()
        self.signer = SimSigner(1, "aggregator")
        verifier = SimVerifier()
        self.contract = Contract(
            chain_id=CHAIN_ID, contract=HUB, aggregator=self.signer.account, params=params,
            verify_session=verifier.verify_session_now,
        )  # fmt: skip
        self.chain = SimChain(self.contract, self.clock, trace=Events(), block_time_s=block_time_s)
        self.ledger = FlakyLedger(self.chain.view(self.signer.account, self.signer.peer_id))
        self.store = MemoryStore(fsync_s=0.01)
        self.runtime = Runtime(
            clock=self.clock, transport=Listener(), store=self.store, signer=self.signer, verifier=verifier,
            ledger=self.ledger, trace=self.trace, rng=random.Random(1), params=params,
        )  # fmt: skip
        self.history = self.open(0)
        self.channel = self.history.terms.channel
        self.service = AggregatorService(self.runtime)

    def apply(self, transaction):
        """At once, as if a block had just come."""
        event = self.contract.apply(transaction, self.clock.utc_ms())
        self.chain.events.append(event)
        return event

    def open(self, nonce):
        """One more channel of 1,000 credits, and its receipts over 10, 20 and 30."""
        payer, provider = SimSigner(1, "payer"), SimSigner(1, "provider")
        self.apply(Deposit(sender=payer.account, amount=1000))
        opened = OpenChannel(
            sender=payer.account, provider=provider.account, session=payer.session_address, amount=1000, nonce=nonce
        )
        return History(amounts=(10, 20, 30), channel=self.apply(opened).channel)

    async def promise(self, promise, *, seq):
        """The aggregator's own word for something else."""
        digest_of = promise_digest(compute_domain(PROMISE_TAG, CHAIN_ID, HUB), replace(promise, seq=seq))
        return replace(promise, seq=seq, signature=await self.signer.sign_session(digest_of))

    def batch(self, first, last, batch_id=1, history=None):
        history = history or self.history
        return SubmitReceipts(
            batch_id=batch_id, previous=history.heads[first - 1], receipts=tuple(history.receipts[first - 1 : last]),
            acknowledgement=history.acknowledge(last), session=bytes(20),
        )  # fmt: skip

    async def sign_commitment(self, commitment):
        domain = compute_domain(COMMITMENT_TAG, CHAIN_ID, HUB)
        return await self.signer.sign_session(commitment_digest(domain, commitment))

    async def ask(self, *frames, peer_id=None):
        stream = Dialogue(peer_id or self.history.provider.peer_id, frames)
        await self.service.serve(stream)
        assert stream.finished
        return stream.answers

    def restart(self):
        self.store.crash()
        self.service = AggregatorService(self.runtime)


def tell(story):
    """Run `await story(world)` in virtual time."""
    world = World()
    world.env.run_coroutine(story(world))
    return world


def test_receipts_are_answered_only_once_they_are_durable():
    async def story(world):
        before = world.clock.now()
        (answer,) = await world.ask(world.batch(1, 2))
        epoch = world.clock.utc_ms() // PARAMS.epoch_ms
        assert answer == Ingested(batch_id=1, epoch=epoch, accepted=2, duplicates=0)
        assert world.clock.now() == before + 0.01
        world.restart()
        assert world.service.window.head(world.channel) == world.history.heads[2]
        assert world.trace == [
            ReceiptsIngested(
                at_s=0.01, node=world.signer.peer_id, channel=world.channel, epoch=epoch, accepted=2, cum=30
            )
        ]
        assert await world.ask(world.batch(1, 3)) == [Ingested(batch_id=1, epoch=epoch, accepted=1, duplicates=2)]

    tell(story)


def test_what_was_not_durable_before_a_crash_was_not_answered_and_may_come_again():
    async def story(world):
        stream = Dialogue(world.history.provider.peer_id, [world.batch(1, 2)])
        task = asyncio.get_running_loop().create_task(world.service.serve(stream))
        await world.clock.sleep(0.005)
        world.restart()
        await task
        assert isinstance(stream.answers[0], Refused)
        assert world.service.window.head(world.channel) is None
        (answer,) = await world.ask(world.batch(1, 2))
        assert (answer.accepted, answer.duplicates) == (2, 0)

    tell(story)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        (
            "receipt_signature",
            lambda b: replace(b, receipts=(b.receipts[0], replace(b.receipts[1], signature=bytes(64)))),
        ),
        (
            "acknowledgement_signature",
            lambda b: replace(b, acknowledgement=replace(b.acknowledgement, signature=bytes(65))),
        ),
        ("ack_wrong_cum", lambda b: replace(b, acknowledgement=replace(b.acknowledgement, cum=99))),
        ("ack_wrong_seq", lambda b: replace(b, receipts=b.receipts[:1])),
        ("seq_not_next", lambda b: replace(b, receipts=b.receipts[1:])),
        ("empty_batch", lambda b: replace(b, receipts=())),
        ("unknown_channel", lambda b: replace(b, acknowledgement=replace(b.acknowledgement, channel=bytes(32)))),
    ],
)
def test_a_bad_batch_is_refused_by_name_and_leaves_evidence(kind, spoil):
    async def story(world):
        (answer,) = await world.ask(spoil(world.batch(1, 2)))
        code = WireCode.BAD_SIGNATURE if kind.endswith("signature") else WireCode.RECEIPT_MISMATCH
        assert isinstance(answer, Refused) and answer.code == code
        assert answer.message.startswith(f"{kind}:")
        (evidence,) = world.trace.of(EvidenceRecorded)
        assert (evidence.peer, evidence.kind) == (world.history.provider.peer_id, kind)
        assert world.service.window.head(world.channel) is None

    tell(story)


def test_a_provider_cannot_hand_in_receipts_of_another():
    async def story(world):
        (answer,) = await world.ask(world.batch(1, 2), peer_id=SimSigner(1, "thief").peer_id)
        assert answer.message.startswith("wrong_provider_key:")

    tell(story)


def test_an_answer_in_place_of_a_question_ends_the_stream():
    async def story(world):
        with pytest.raises(PeerError):
            await world.ask(Ingested(batch_id=1, epoch=1, accepted=1, duplicates=0))

    tell(story)


def test_an_epoch_is_committed_after_its_end_and_its_proof_is_worth_money():
    async def story(world):
        await world.ask(world.batch(1, 3))
        epoch = world.clock.utc_ms() // PARAMS.epoch_ms
        question = AskProof(epoch=epoch, channel=world.channel)
        assert (await world.ask(question))[0].commitment is None
        runner = asyncio.get_running_loop().create_task(world.service.run())
        await world.clock.sleep(15)
        (answer,) = await world.ask(question)
        verify(answer.leaf, answer.proof, answer.commitment)
        assert world.ledger.epoch(epoch).commitment == answer.commitment
        (committed,) = world.trace.of(EpochCommitted)
        assert (committed.epoch, committed.count, committed.root) == (epoch, 1, answer.commitment.root)
        provider = world.history.provider
        ledger = world.chain.view(provider.account, provider.peer_id)
        await ledger.submit(
            Claim(sender=provider.account, leaf=answer.leaf, proof=answer.proof, acknowledgement=answer.acknowledgement)
        )
        assert ledger.balance(provider.account) == 60
        assert (await world.ask(AskProof(epoch=epoch, channel=bytes(32))))[0].leaf is None
        runner.cancel()

    tell(story)


@pytest.mark.parametrize("crash_after_s", [10.001, 10.015, 10.025, 10.5, 11.0001, 11.005, 11.015])
def test_a_crash_at_any_point_of_closing_commits_the_epoch_exactly_once(crash_after_s):
    """10.0 the epoch ends, 10.01 its page is durable, 10.02 it is closed, 10.03 its rows are gone, 11.0 its block, 11.01 it is marked."""

    async def story(world):
        loop = asyncio.get_running_loop()
        await world.ask(world.batch(1, 3))
        runner = loop.create_task(world.service.run())
        world.ledger.lose_next_reply = crash_after_s > 11
        await world.clock.sleep(crash_after_s - world.clock.now())
        runner.cancel()
        world.restart()
        runner = loop.create_task(world.service.run())
        await world.clock.sleep(10)
        runner.cancel()
        assert world.ledger.submitted == 1
        assert list(world.store.scan(LEAVES)) == []
        (kept,) = load_commitments(world.store)
        assert kept.status == "submitted"
        (answer,) = await world.ask(AskProof(epoch=kept.commitment.epoch, channel=world.channel))
        verify(answer.leaf, answer.proof, kept.commitment)
        assert [event.count for event in world.trace.of(EpochCommitted)] == [1]

    tell(story)


def test_a_root_of_somebody_else_leaves_evidence_and_no_proofs():
    async def story(world):
        await world.ask(world.batch(1, 1))
        epoch = world.clock.utc_ms() // PARAMS.epoch_ms
        world.contract.apply(
            SubmitEpoch(sender=world.signer.account, commitment=Commitment(epoch=epoch, root=bytes(32), count=9)),
            (epoch + 1) * PARAMS.epoch_ms,
        )
        await world.clock.sleep(10)
        await world.service.close_due_epochs()
        assert [event.kind for event in world.trace.of(EvidenceRecorded)] == ["epoch_taken"]
        assert world.trace.of(EpochCommitted) == []
        assert (await world.ask(AskProof(epoch=epoch, channel=world.channel)))[0].leaf is None

    tell(story)


def test_a_ledger_whose_clock_lags_is_asked_again():
    async def story(world):
        await world.ask(world.batch(1, 1))
        await world.clock.sleep(10)
        refusals = []
        accept = world.contract.apply

        def apply(transaction, now_ms):
            if len(refusals) < 3:
                refusals.append(now_ms)
                raise SettlementError("epoch_not_over")
            return accept(transaction, now_ms)

        world.contract.apply = apply
        await world.service.close_due_epochs()
        assert len(refusals) == 3
        assert len(world.trace.of(EpochCommitted)) == 1

    tell(story)


def test_receipts_of_the_next_epoch_do_not_touch_the_closed_one():
    async def story(world):
        runner = asyncio.get_running_loop().create_task(world.service.run())
        await world.ask(world.batch(1, 1))
        await world.clock.sleep(12)
        await world.ask(world.batch(2, 3))
        await world.clock.sleep(10)
        runner.cancel()
        assert [event.count for event in world.trace.of(EpochCommitted)] == [1, 1]
        first = world.trace.of(EpochCommitted)[0].epoch
        answers = await world.ask(*(AskProof(epoch=first + n, channel=world.channel) for n in (0, 1, 2)))
        assert [answer.leaf and answer.leaf.cum for answer in answers] == [10, 60, None]

    tell(story)


def test_what_is_older_than_its_retention_is_forgotten_even_when_epochs_between_were_empty(monkeypatch):
    monkeypatch.setattr(closing, "EPOCHS_RETAINED", 1)

    async def story(world):
        world.service = AggregatorService(world.runtime)
        runner = asyncio.get_running_loop().create_task(world.service.run())
        await world.ask(world.batch(1, 1))
        await world.clock.sleep(45)
        # Challenged for 10 s, answered for 2.5: two epochs of 10 s and one more are kept whatever the constant says.
        await world.ask(world.batch(2, 2))
        await world.clock.sleep(12)
        (kept,) = load_commitments(world.store)
        newest = world.clock.utc_ms() // PARAMS.epoch_ms
        assert newest - 2 < kept.commitment.epoch
        for table, rows in ((PAGES, 1), (MANIFESTS, 1), (NAMES, 2), (RECEIPT_ROWS, 1), (COMMITMENTS, 1)):
            assert len(list(world.store.scan(table))) == rows, table
        (answer,) = await world.ask(AskHeads())
        assert [ack.seq for ack in answer.acknowledgements] == [2]
        runner.cancel()

    tell(story)
