"""An aggregator's word when it is given: checked against the bond that answers for it, by hand."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from quiver.errors import SettlementError, Unavailable
from quiver.ids import Address, ChannelId
from quiver.params import Params
from quiver.provider import watch
from quiver.provider.leaves import Leaves
from quiver.provider.watcher import Watcher
from quiver.receipts.promises import sign_commitment, sign_promise
from quiver.settlement.terms import Terms
from quiver.trace import EvidenceRecorded, SettlementWarned
from quiver.values.ledger import BondState, Commitment, EpochState, Promise, ProveBadHead, SignedCommitment
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

    def balance(self, account):
        return 0

    async def submit(self, transaction):
        if self.refusal is not None:
            raise self.refusal
        self.sent.append(transaction)


class Desk:
    """A watcher of one provider, and what it said."""

    def __init__(self, *, bonded=True, slash_credits=100):
        self.events, self.ledger, self.utc_ms = [], Ledger(bonded), 1_000
        self.runtime = SimpleNamespace(
            ledger=self.ledger, verifier=SimVerifier(), store=MemoryStore(), signer=PROVIDER,
            params=Params(slash_credits=slash_credits), trace=SimpleNamespace(emit=self.events.append),
            clock=SimpleNamespace(now=lambda: 1.0, utc_ms=lambda: self.utc_ms),
        )  # fmt: skip
        self.restart()

    def restart(self):
        self.watcher = Watcher(self.runtime, {}, Leaves(), aggregator=STRANGER.peer_id, poster=POSTER.account)

    def keep(self, batch):
        asyncio.run(self.runtime.store.commit(batch))

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


def test_a_word_from_before_the_bond_is_seen_waits_and_nobody_is_blamed():
    desk = Desk(bonded=False)
    assert len(desk.hear()) == 1 and desk.watcher.docket.promises == [] and desk.events == []
    desk.look()
    assert len(desk.watcher.docket.unchecked) == 1
    desk.ledger.bonded = True
    desk.look()
    assert len(desk.watcher.docket.promises) == 1 and desk.watcher.docket.unchecked == [] and desk.events == []


def test_what_waits_survives_a_restart_and_is_checked_by_the_next_life():
    desk = Desk(bonded=False)
    desk.keep(desk.hear())
    desk.restart()
    assert [one.seq for one in desk.watcher.docket.unchecked] == [5]
    desk.ledger.bonded = True
    desk.look()
    desk.restart()
    assert [one.seq for one in desk.watcher.docket.promises] == [5] and desk.watcher.docket.unchecked == []


def test_a_word_that_waited_and_is_by_another_signer_is_evidence_then():
    desk = Desk(bonded=False)
    desk.keep(desk.hear(STRANGER))
    assert desk.events == []
    desk.ledger.bonded = True
    desk.look()
    (evidence,) = desk.said(EvidenceRecorded)
    assert evidence.kind == "promise_signature" and "promise_signature" in desk.watcher.concerns.health
    desk.restart()
    assert desk.watcher.docket.promises == desk.watcher.docket.unchecked == []


def test_what_needs_no_bond_to_be_wrong_does_not_wait():
    desk = Desk(bonded=False)
    assert list(desk.hear(epoch=8)) == [] and desk.said(EvidenceRecorded)[0].kind == "promise_other"
    assert desk.watcher.docket.unchecked == []


def test_of_one_epoch_the_furthest_word_waits():
    desk = Desk(bonded=False)
    desk.keep(desk.hear(at=ChannelHead(seq=6, cum=60, head=b"\x06" * 32)))
    assert list(desk.hear()) == []
    desk.keep(desk.hear(at=ChannelHead(seq=7, cum=70, head=b"\x07" * 32)))
    assert [one.seq for one in desk.watcher.docket.unchecked] == [7]
    # What was looked at is not what came meanwhile.
    assert list(desk.watcher.docket.forget_unchecked(replace(desk.watcher.docket.unchecked[0], seq=6))) == []


def test_what_waited_until_no_root_of_its_epoch_can_be_challenged_is_forgotten():
    desk, terms = Desk(bonded=False), Terms.from_params(Params(slash_credits=100))
    desk.keep(desk.hear())
    over_ms = 8 * terms.epoch_ms + terms.submit_grace_ms + terms.challenge_window_ms
    for desk.utc_ms, left in ((over_ms - 1, 1), (over_ms, 0)):
        desk.look()
        assert len(desk.watcher.docket.unchecked) == left
    desk.restart()
    assert desk.watcher.docket.unchecked == []


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(watch, "UNCHECKED_MAX", 3)
    desk = Desk(bonded=False)
    promise = Promise(epoch=0, channel=CHANNEL, cum=50, seq=5, head=AT.head, signature=b"s" * 65)
    for epoch in range(5):
        desk.keep(desk.watcher.docket.on_unchecked(replace(promise, epoch=epoch)))
    desk.restart()
    assert [one.epoch for one in desk.watcher.docket.unchecked] == [2, 3, 4]


def test_where_nothing_is_slashed_no_word_is_kept():
    desk = Desk(bonded=False, slash_credits=0)
    assert list(desk.hear()) == [] and desk.watcher.docket.unchecked == []


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
