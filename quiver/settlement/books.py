"""What the ledger's events say about channels and about one account: folded once, oldest first. Pure.

Rules of this file: it believes the events and computes only what they leave out, by the contract's own rules: how a batch was shared
out among its channels, and whose stake was on the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from quiver.ids import Address, ChannelId
from quiver.settlement.challenges import subject_of_omission
from quiver.settlement.merkle import hash_leaf
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    AnswerLeaf,
    AnswerOmission,
    ChallengeLeaf,
    ChallengeOmission,
    Claim,
    ClaimBatch,
    ClaimDirect,
    ClaimDirectBatch,
    Deposit,
    Fault,
    Finalize,
    FinishExit,
    LedgerEvent,
    OpenChannel,
    ProveBadHead,
    RequestExit,
    TopUp,
    Withdraw,
)
from quiver.values.receipt import Acknowledgement

Case = tuple[Fault, int, bytes]


@dataclass(slots=True)
class ChannelBook:
    """One channel, in credits."""

    payer: Address
    provider: Address
    locked: int
    paid: int = 0
    exit_at_ms: int | None = None
    closed: bool = False
    refunded: int = 0

    def due(self, cum: int) -> int:
        """What a claim over `cum` would move now."""
        return 0 if self.closed else max(0, min(cum, self.locked) - self.paid)


@dataclass(slots=True)
class Move:
    """What one event did to an account outside its channels."""

    at_ms: int
    reward: int = 0
    "From a slash, or another's stake for an answer."
    stake_lost: int = 0
    gas_wei: int = 0


@dataclass(slots=True)
class Books:
    """`account` is whose gas, stakes and rewards are counted."""

    account: Address
    terms: Terms
    channels: dict[ChannelId, ChannelBook] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    stakes: dict[Case, Address] = field(default_factory=dict)
    "Accusers of all cases that are not decided."
    deposited: int = 0
    withdrawn: int = 0
    cursor: int = 0
    "Index of the next event."

    @property
    def in_dispute(self) -> int:
        """Credits of the account that are staked on open challenges."""
        return self.terms.stake * sum(accuser == self.account for accuser in self.stakes.values())

    def read(self, events: Iterable[LedgerEvent]) -> None:
        """The next events, without a gap."""
        for event in events:
            self._book(event)
            self.cursor = event.index + 1

    def _book(self, event: LedgerEvent) -> None:
        move = Move(at_ms=event.at_ms)
        if event.transaction.sender == self.account:
            move.gas_wei = event.gas_wei
        self._contest(event, move)
        self._pay(event)
        match event.transaction:
            case OpenChannel(sender=payer, provider=provider, amount=amount) if event.channel is not None:
                self.channels[event.channel] = ChannelBook(payer=payer, provider=provider, locked=amount)
            case TopUp(channel=channel, amount=amount):
                self.channels[channel].locked += amount
            case RequestExit(channel=channel):
                self.channels[channel].exit_at_ms = event.at_ms + self.terms.exit_delay_ms
            case FinishExit(channel=channel):
                self.channels[channel].closed, self.channels[channel].refunded = True, event.refunded
            case Deposit(sender=self.account, amount=amount):
                self.deposited += amount
            case Withdraw(sender=self.account, amount=amount):
                self.withdrawn += amount
        if move.reward or move.stake_lost or move.gas_wei:
            self.moves.append(move)

    def _pay(self, event: LedgerEvent) -> None:
        """A batch names no channel in its event: each gets what it had due, as the contract paid."""
        acks: tuple[Acknowledgement, ...]
        match event.transaction:
            case Claim(acknowledgement=ack) | ClaimDirect(acknowledgement=ack):
                acks = (ack,)
            case ClaimBatch(acknowledgements=acks) | ClaimDirectBatch(acknowledgements=acks):
                pass
            case _:
                return
        for ack in acks:
            book = self.channels[ack.channel]
            book.paid += book.due(ack.cum)

    def _contest(self, event: LedgerEvent, move: Move) -> None:
        match event.transaction:
            case ChallengeOmission(sender=sender, promise=promise):
                self.stakes[Fault.OMISSION, promise.epoch, subject_of_omission(promise.channel, promise.seq)] = sender
            case ChallengeLeaf(sender=sender, leaf=leaf):
                self.stakes[Fault.LEAF, leaf.epoch, hash_leaf(leaf)] = sender
            case AnswerOmission(sender=sender, promised_seq=seq, leaf=leaf):
                self._answer((Fault.OMISSION, leaf.epoch, subject_of_omission(leaf.channel, seq)), sender, event, move)
            case AnswerLeaf(sender=sender, leaf=leaf):
                self._answer((Fault.LEAF, leaf.epoch, hash_leaf(leaf)), sender, event, move)
            case ProveBadHead(sender=self.account):
                move.reward += event.paid
            case Finalize(fault=fault, epoch=epoch, subject=subject):
                if self.stakes.pop((fault, epoch, subject)) == self.account:
                    move.reward += event.paid

    def _answer(self, case: Case, answerer: Address, event: LedgerEvent, move: Move) -> None:
        accuser = self.stakes.pop(case)
        move.reward += event.paid if answerer == self.account else 0
        move.stake_lost += event.paid if accuser == self.account else 0
