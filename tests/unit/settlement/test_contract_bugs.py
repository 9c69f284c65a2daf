"""Bugs planted in the contract model: conservation or the second bookkeeper must find each of them."""

from __future__ import annotations

import msgspec
import pytest

from quiver.identity.signing import ack_digest, ack_domain
from quiver.ids import Address, PeerId
from quiver.params import Params
from quiver.settlement.channels import Effect
from quiver.settlement.contract import Contract
from quiver.trace import LedgerMoved
from quiver.values.ledger import ClaimDirect, Deposit, FinishExit, OpenChannel, RequestExit, TopUp
from quiver.values.receipt import Acknowledgement
from sim.invariants import InvariantBroken, SecondBookkeeper
from sim.signer import compute_tag, model_verify_session

PAYER, PROVIDER, OTHER, SESSION, HUB = (Address(bytes([n]) * 20) for n in range(1, 6))
DOMAIN = ack_domain(1, HUB)


def tell_story(contract_class: type[Contract]) -> None:
    """Deposit 1000, lock 400 + 100, claim 150 of it, then 450, then 900 (so 500), leave; a second channel leaves with 70 unspent."""
    contract = contract_class(
        chain_id=1, contract=HUB, aggregator=OTHER, params=Params.minimal(), verify_session=model_verify_session
    )
    bookkeeper = SecondBookkeeper()

    def send(transaction, now_ms=0):
        event = contract.apply(transaction, now_ms)
        bookkeeper.observe(LedgerMoved(at_s=0.0, node=PeerId(b""), event=event))
        contract.validate()
        bookkeeper.compare(contract)
        return event

    def claim(channel, seq, cum):
        digest = ack_digest(DOMAIN, channel, cum, seq, bytes(32))
        ack = Acknowledgement(
            channel=channel,
            seq=seq,
            cum=cum,
            head=bytes(32),
            signature=compute_tag(SESSION, digest, b"secp256k1") + b"\0",
        )
        send(ClaimDirect(sender=OTHER, acknowledgement=ack))

    send(Deposit(sender=PAYER, amount=1000))
    first = send(OpenChannel(sender=PAYER, provider=PROVIDER, session=SESSION, amount=400, nonce=1)).channel
    second = send(OpenChannel(sender=PAYER, provider=PROVIDER, session=SESSION, amount=100, nonce=2)).channel
    send(TopUp(sender=PAYER, channel=first, amount=100))
    claim(first, 1, 150)
    claim(first, 2, 450)
    claim(first, 3, 900)
    claim(second, 1, 30)
    send(RequestExit(sender=PAYER, channel=second))
    send(FinishExit(sender=PAYER, channel=second), now_ms=1_000_000)
    assert dict(contract.balances()) == {PAYER: 470, PROVIDER: 530}


class PaysWhatWasNeverLocked(Contract):
    def _pay(self, state, cum):
        self._channels[state.channel] = msgspec.structs.replace(state, paid=cum)
        self._accounts.credit(state.provider, cum - state.paid)
        return Effect(channel=state.channel, paid=cum - state.paid)


class PaysTheSameCreditsAgain(Contract):
    def _pay(self, state, cum):
        due = min(cum, state.locked)
        self._channels[state.channel] = msgspec.structs.replace(state, paid=due)
        self._accounts.credit(state.provider, due)
        return Effect(channel=state.channel, paid=due)


class PaysTheSender(Contract):
    """Conserves every credit: only the second bookkeeper can see it."""

    def _pay(self, state, cum):
        effect = super()._pay(state, cum)
        self._accounts.debit(state.provider, effect.paid)
        self._accounts.credit(OTHER, effect.paid)
        return effect


class RefundsAllThatWasLocked(Contract):
    def _finish_exit(self, transaction, now_ms):
        state = self._channels[transaction.channel]
        effect = super()._finish_exit(transaction, now_ms)
        self._accounts.credit(state.payer, state.paid)
        return msgspec.structs.replace(effect, refunded=state.locked)


class OpensWithoutTakingTheCredits(Contract):
    def _open(self, transaction):
        effect = super()._open(transaction)
        self._accounts.credit(transaction.sender, transaction.amount)
        return effect


class LocksATopUpTwice(Contract):
    def _top_up(self, transaction):
        effect = super()._top_up(transaction)
        state = self._channels[transaction.channel]
        self._channels[state.channel] = msgspec.structs.replace(state, locked=state.locked + transaction.amount)
        return effect


class ReportsLessThanItPaid(Contract):
    """State is right, the event lies: whoever follows events would be wrong."""

    def _pay(self, state, cum):
        effect = super()._pay(state, cum)
        return msgspec.structs.replace(effect, paid=effect.paid - 1)


def test_the_story_holds_on_the_contract():
    tell_story(Contract)


@pytest.mark.parametrize(
    ("bug", "found_by"),
    [
        (PaysWhatWasNeverLocked, InvariantBroken),
        (PaysTheSameCreditsAgain, InvariantBroken),
        (PaysTheSender, InvariantBroken),
        (RefundsAllThatWasLocked, InvariantBroken),
        (OpensWithoutTakingTheCredits, AssertionError),
        (LocksATopUpTwice, AssertionError),
        (ReportsLessThanItPaid, InvariantBroken),
    ],
)
def test_a_planted_bug_is_found(bug, found_by):
    with pytest.raises(found_by):
        tell_story(bug)
