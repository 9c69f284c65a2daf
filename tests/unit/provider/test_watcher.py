"""An aggregator's word when it is given: checked against the bond that answers for it, by hand."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from quiver.errors import SettlementError, Unavailable
from quiver.ids import Address, ChannelId
from quiver.params import Params
from quiver.provider.leaves import Leaves
from quiver.provider.watcher import Watcher
from quiver.receipts.promises import sign_commitment, sign_promise
from quiver.settlement.terms import Terms
from quiver.trace import EvidenceRecorded, SettlementWarned
from quiver.values.ledger import BondState, Commitment, EpochState, ProveBadHead, SignedCommitment
from quiver.values.receipt import Acknowledgement, ChannelHead
from sim.signer import SimSigner, SimVerifier
from sim.store import MemoryStore

replace = msgspec.structs.replace
POSTER, STRANGER, PROVIDER = (SimSigner(1, name) for name in ("poster", "stranger", "provider"))
CHANNEL = ChannelId(b"\xcc" * 32)
AT = ChannelHead(seq=5, cum=50, head=b"\x05" * 32)
ACK = Acknowledgement(channel=CHANNEL, seq=5, cum=50, head=AT.head, signature=b"a" * 65)
POSTED = Commitment(epoch=7, root=b"\x07" * 32, count=3)


class Ledger:
    """One bond, by `bonded`, one root, and what was sent."""

    chain_id, contract = 31337, Address(b"\x0c" * 20)

    def __init__(self, bonded):
        self.bonded, self.sent = bonded, []
        self.refusal = self.proven = None

    def bond(self, account):
        is_there = self.bonded and account == POSTER.account
        return BondState(account=account, signer=POSTER.session_address, amount=2_000) if is_there else None

    def epoch(self, number):
        return EpochState(commitment=POSTED, submitted_ms=0, poster=POSTER.account) if number == 7 else None

    def events(self, cursor):
        return []

    def challenge(self, fault, epoch, subject):
        return self.proven

    async def submit(self, transaction):
        if self.refusal is not None:
            raise self.refusal
        self.sent.append(transaction)


class Desk:
    """A watcher of one provider, and what it said."""

    def __init__(self, *, bonded=True):
        self.events, self.ledger, self.utc_ms = [], Ledger(bonded), 1_000
        self.runtime = SimpleNamespace(
            ledger=self.ledger, verifier=SimVerifier(), store=MemoryStore(), signer=PROVIDER,
            params=Params(slash_credits=100), trace=SimpleNamespace(emit=self.events.append),
            clock=SimpleNamespace(now=lambda: 1.0, utc_ms=lambda: self.utc_ms),
        )  # fmt: skip
        self.watcher = Watcher(
            self.runtime, {}, Leaves(), aggregator=STRANGER.peer_id, poster=POSTER.account
        )  # fmt: skip

    def hear(self, signer=POSTER, *, at=AT, epoch=7, **changed):
        async def flow():
            promise = await sign_promise(signer, self.ledger, epoch=7, channel=CHANNEL, head=at)
            return await self.watcher.on_promise(replace(promise, **changed), ACK, epoch)

        return asyncio.run(flow())

    def look(self):
        asyncio.run(self.watcher.look())

    def said(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def test_a_word_of_the_bonds_signer_is_kept():
    desk = Desk()
    assert len(desk.hear()) == 1 and len(desk.watcher.docket.promises) == 1 and desk.events == []
    # An aggregator that held more already promises more.
    assert len(desk.hear(at=ChannelHead(seq=6, cum=60, head=b"\x06" * 32))) == 1


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("promise_signature", {"signer": STRANGER}),
        ("promise_signature", {"cum": 60, "seq": 6}),
        ("promise_signature", {"signature": b""}),
        ("promise_other", {"epoch": 8}),
        ("promise_other", {"channel": ChannelId(bytes(32))}),
        ("promise_short", {"at": ChannelHead(seq=4, cum=40, head=b"\x04" * 32)}),
        ("promise_short", {"at": ChannelHead(seq=5, cum=49, head=AT.head)}),
        ("promise_short", {"at": ChannelHead(seq=5, cum=50, head=bytes(32))}),
    ],
)
def test_a_word_that_nobody_answers_for_is_evidence_and_no_promise(name, given):
    desk = Desk()
    assert list(desk.hear(**given)) == [] and desk.watcher.docket.promises == []
    (evidence,) = desk.said(EvidenceRecorded)
    assert (evidence.kind, evidence.peer, evidence.node) == (name, STRANGER.peer_id, PROVIDER.peer_id)
    # The operator is told once, and it is over with the next good one.
    desk.hear(**given)
    assert len(desk.said(SettlementWarned)) == 1 and name in desk.watcher.concerns.health
    desk.hear()
    assert desk.watcher.concerns.health is None and len(desk.watcher.docket.promises) == 1


def test_without_a_bond_nothing_can_be_checked_and_nobody_is_blamed():
    desk = Desk(bonded=False)
    assert list(desk.hear()) == [] and desk.watcher.docket.promises == [] and desk.events == []


@pytest.mark.parametrize(("signer", "accused"), [(POSTER, True), (STRANGER, False)])
def test_another_root_is_accused_only_when_the_posters_signer_signed_it(signer, accused):
    desk, other = Desk(), replace(POSTED, root=b"\x08" * 32)

    async def flow():
        signature = await sign_commitment(signer, desk.ledger, other)
        desk.watcher.on_commitment(SignedCommitment(commitment=other, signature=signature))
        await desk.watcher.look()

    asyncio.run(flow())
    assert [type(one) for one in desk.ledger.sent] == [ProveBadHead] * accused
    assert [event.kind for event in desk.said(EvidenceRecorded)] == ["commitment_signature"] * (not accused)


def two_roots(desk):
    """The poster's signer signed another root than the one that is posted."""

    async def flow():
        other = replace(POSTED, root=b"\x08" * 32)
        signature = await sign_commitment(POSTER, desk.ledger, other)
        desk.watcher.on_commitment(SignedCommitment(commitment=other, signature=signature))

    asyncio.run(flow())


def test_an_accusation_that_could_not_be_sent_is_sent_next_round():
    desk = Desk()
    two_roots(desk)
    desk.ledger.refusal = Unavailable("nobody answers")
    desk.look()
    assert "head of epoch 7: ProveBadHead could not be sent: nobody answers" in desk.watcher.concerns.health
    desk.ledger.refusal = None
    desk.look()
    desk.look()
    assert [type(one) for one in desk.ledger.sent] == [ProveBadHead] and desk.watcher.concerns.health is None


@pytest.mark.parametrize("somebody", [True, False])
def test_an_accusation_that_is_refused_is_no_concern_once_another_made_it_or_nobody_can_any_more(somebody):
    desk = Desk()
    two_roots(desk)
    desk.ledger.refusal = SettlementError("reverted")
    desk.look()
    assert "was refused: reverted" in desk.watcher.concerns.health
    if somebody:
        desk.ledger.proven = object()
    else:
        desk.utc_ms = Terms.from_params(Params()).challenge_window_ms
    desk.look()
    assert desk.watcher.concerns.health is None and desk.ledger.sent == []
