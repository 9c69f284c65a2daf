"""What must hold in every world, checked by somebody who only reads the trace.

`SecondBookkeeper` keeps every balance from `LedgerMoved` events by its own arithmetic; `RequestCount` checks
requests = completed + rejected + failed + cancelled + unfinished. Neither shares code with what it checks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from quiver.ids import Address, ChannelId, RequestId
from quiver.settlement.contract import Contract
from quiver.trace import LedgerMoved, RequestArrived, RequestFinished
from quiver.values.ledger import (
    AnswerLeaf,
    AnswerOmission,
    Bond,
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
    FinishUnbond,
    Leaf,
    LedgerEvent,
    OpenChannel,
    ProveBadHead,
    RequestExit,
    RotateSession,
    SubmitEpoch,
    TopUp,
    Withdraw,
)
from quiver.values.receipt import Acknowledgement

OUTCOMES = ("completed", "rejected", "failed", "cancelled")


class InvariantBroken(AssertionError):
    """The world contradicts its own trace."""


Accusation = tuple[Fault, int, bytes]
"""(fault, epoch, subject), as `Finalize` names it."""


def omission_key(channel: ChannelId, seq: int) -> bytes:
    """Subject of a broken promise: docs/protocol.md, section 6."""
    return hashlib.sha256(channel + seq.to_bytes(8, "big")).digest()


def leaf_key(leaf: Leaf) -> bytes:
    """Subject of an invented leaf: the hash of its 97 bytes."""
    numbers = leaf.cum.to_bytes(16, "big") + leaf.seq.to_bytes(8, "big")
    return hashlib.sha256(b"\0" + leaf.epoch.to_bytes(8, "big") + leaf.channel + numbers + leaf.head).digest()


@dataclass(slots=True)
class Book:
    """One channel as the bookkeeper knows it."""

    payer: Address
    provider: Address
    locked: int
    paid: int = 0
    closed: bool = False


class SecondBookkeeper:
    """Subscribe `observe` to a trace, for the kinds `observed`; `compare(contract)` at any time.

    It does not judge proofs and signatures: who was accused is known from who posted, and who won from what was accepted.
    """

    observed = (LedgerMoved,)

    def __init__(self, *, slash_credits: int = 0) -> None:
        """`slash_credits` as in the network's params: what a fault costs; an accusation stakes a tenth of it."""
        self.slash_credits = slash_credits
        self.stake_credits = slash_credits // 10
        self.balances: Counter[Address] = Counter()
        self.channels: dict[ChannelId, Book] = {}
        self.bonds: Counter[Address] = Counter()
        self.posters: dict[int, Address] = {}
        self.accusers: dict[Accusation, Address] = {}
        "Of challenges that are not decided: each has a stake on the table."
        self.deposited = self.withdrawn = self.burnt = 0
        self._next_index = 0

    def observe(self, event: Any) -> None:
        """Any trace event; only `LedgerMoved` counts."""
        if isinstance(event, LedgerMoved):
            self._book(event.event)

    def _book(self, event: LedgerEvent) -> None:
        if event.index != self._next_index:
            raise InvariantBroken(
                f"ledger event {event.index} follows {self._next_index - 1}: one is missing or double"
            )
        self._next_index += 1
        paid, refunded, slashed = self._dispute(event) or self._move(event)
        if (event.paid, event.refunded, event.slashed) != (paid, refunded, slashed):
            raise InvariantBroken(
                f"ledger event {event.index} paid {event.paid}, returned {event.refunded} and slashed {event.slashed}, "
                f"expected {paid}, {refunded} and {slashed}"
            )

    def _move(self, event: LedgerEvent) -> tuple[int, int, int]:
        """(paid, refunded, 0) of a transaction outside a dispute."""
        paid = refunded = 0
        match event.transaction:
            case Deposit(sender=sender, amount=amount):
                self.balances[sender] += amount
                self.deposited += amount
            case OpenChannel(sender=sender, provider=provider, amount=amount):
                self._spend(sender, amount)
                self._new(event, Book(payer=sender, provider=provider, locked=amount))
            case TopUp(sender=sender, amount=amount):
                self._spend(sender, amount)
                self._open_book(event).locked += amount
            case Claim(acknowledgement=ack) | ClaimDirect(acknowledgement=ack):
                paid = self._pay(self._open_book(event), ack)
            case ClaimBatch(acknowledgements=acks) | ClaimDirectBatch(acknowledgements=acks):
                paid = sum(self._pay(self.channels[ack.channel], ack) for ack in acks)
            case Withdraw(sender=sender, amount=amount):
                self._spend(sender, amount)
                self.withdrawn += amount
            case SubmitEpoch(sender=sender, commitment=commitment):
                if self.posters.setdefault(commitment.epoch, sender) != sender:
                    raise InvariantBroken(f"epoch {commitment.epoch} has two roots")
            case Bond(sender=sender, amount=amount):
                self._spend(sender, amount)
                self.bonds[sender] += amount
            case FinishUnbond(sender=sender):
                refunded = self.bonds.pop(sender, 0)
                self.balances[sender] += refunded
            case FinishExit():
                book = self._open_book(event)
                refunded, book.closed = book.locked - book.paid, True
                self.balances[book.payer] += refunded
            case RequestExit() | RotateSession():
                self._open_book(event)
        return paid, refunded, 0

    def _dispute(self, event: LedgerEvent) -> tuple[int, int, int] | None:
        """(paid, refunded, slashed), or None for a transaction that is no part of a dispute."""
        match event.transaction:
            case ChallengeOmission(sender=sender, promise=promise):
                self._accuse((Fault.OMISSION, promise.epoch, omission_key(promise.channel, promise.seq)), sender)
            case ChallengeLeaf(sender=sender, leaf=leaf):
                self._accuse((Fault.LEAF, leaf.epoch, leaf_key(leaf)), sender)
            case AnswerOmission(sender=sender, promised_seq=seq, leaf=leaf):
                return self._answer((Fault.OMISSION, leaf.epoch, omission_key(leaf.channel, seq)), sender)
            case AnswerLeaf(sender=sender, leaf=leaf):
                return self._answer((Fault.LEAF, leaf.epoch, leaf_key(leaf)), sender)
            case ProveBadHead(sender=sender, signed=signed):
                slashed, reward = self._slash(signed.commitment.epoch, sender)
                return reward, 0, slashed
            case Finalize(fault=fault, epoch=epoch, subject=subject):
                accuser = self._decide((fault, epoch, subject))
                self.balances[accuser] += self.stake_credits
                slashed, reward = self._slash(epoch, accuser)
                return reward, self.stake_credits, slashed
            case _:
                return None
        return 0, 0, 0

    def _accuse(self, accusation: Accusation, sender: Address) -> None:
        if accusation in self.accusers:
            raise InvariantBroken(f"the same {accusation[0].value} of epoch {accusation[1]} is on trial twice")
        self._spend(sender, self.stake_credits)
        self.accusers[accusation] = sender

    def _answer(self, accusation: Accusation, sender: Address) -> tuple[int, int, int]:
        self._decide(accusation)
        self.balances[sender] += self.stake_credits
        return self.stake_credits, 0, 0

    def _decide(self, accusation: Accusation) -> Address:
        if accusation not in self.accusers:
            raise InvariantBroken(f"nobody is accused of this {accusation[0].value} of epoch {accusation[1]}")
        return self.accusers.pop(accusation)

    def _slash(self, epoch: int, accuser: Address) -> tuple[int, int]:
        poster = self.posters.get(epoch)
        if poster is None:
            raise InvariantBroken(f"a slash for epoch {epoch}, which nobody posted")
        taken = min(self.slash_credits, self.bonds[poster])
        reward = taken // 2
        self.bonds[poster] -= taken
        self.balances[accuser] += reward
        self.burnt += taken - reward
        return taken, reward

    def _pay(self, book: Book, ack: Acknowledgement) -> int:
        due = 0 if book.closed else max(0, min(ack.cum, book.locked) - book.paid)
        book.paid += due
        self.balances[book.provider] += due
        return due

    def _new(self, event: LedgerEvent, book: Book) -> None:
        if event.channel is None or event.channel in self.channels:
            raise InvariantBroken(f"ledger event {event.index} opens a channel that has no id or exists already")
        self.channels[event.channel] = book

    def _open_book(self, event: LedgerEvent) -> Book:
        book = None if event.channel is None else self.channels.get(event.channel)
        if book is None or book.closed:
            raise InvariantBroken(f"ledger event {event.index} moves credits of a channel that is not open")
        return book

    def _spend(self, account: Address, amount: int) -> None:
        self.balances[account] -= amount
        if self.balances[account] < 0:
            raise InvariantBroken(f"account {account.hex()} spent {-self.balances[account]} credits it never had")

    def compare(self, contract: Contract) -> None:
        """`InvariantBroken` names the first account, bond or channel on which contract and trace differ."""
        if contract.deposited != self.deposited:
            raise InvariantBroken(
                f"the contract counts {contract.deposited} deposited credits, the trace {self.deposited}"
            )
        self._compare_bonds(contract)
        ours = sorted((account, credits) for account, credits in self.balances.items() if credits)
        theirs = list(contract.balances())
        for mine, other in zip(ours, theirs, strict=False):
            if mine != other:
                raise InvariantBroken(
                    f"free credits differ: contract {other[0].hex()} {other[1]}, trace {mine[0].hex()} {mine[1]}"
                )
        if len(ours) != len(theirs):
            raise InvariantBroken(f"the contract has {len(theirs)} accounts with credits, the trace {len(ours)}")
        self._compare_channels(contract)

    def _compare_bonds(self, contract: Contract) -> None:
        for account, credits in self.bonds.items():
            state = contract.bond(account)
            if (0 if state is None else state.amount) != credits:
                raise InvariantBroken(f"the bond of {account.hex()} differs: contract {state}, trace {credits}")
        held = (
            sum(book.locked - book.paid for book in self.channels.values() if not book.closed)
            + self.bonds.total()
            + self.stake_credits * len(self.accusers)
        )
        if contract.held != held:
            raise InvariantBroken(
                f"the contract holds {contract.held} in channels, bonds and challenges, the trace {held}"
            )
        if contract.remaining != (remaining := self.deposited - self.withdrawn - self.burnt):
            raise InvariantBroken(f"{contract.remaining} credits are left in the contract, {remaining} in the trace")

    def _compare_channels(self, contract: Contract) -> None:
        states = {state.channel: state for state in contract.channel_states()}
        if len(states) != len(self.channels):
            raise InvariantBroken(f"the contract has {len(states)} channels, the trace {len(self.channels)}")
        for channel, book in self.channels.items():
            state = states.get(channel)
            if state is None:
                raise InvariantBroken(f"channel {channel.hex()} is unknown to the contract")
            held = (state.payer, state.provider, state.locked - state.paid, state.paid, state.closed)
            kept = (book.payer, book.provider, 0 if book.closed else book.locked - book.paid, book.paid, book.closed)
            if held != kept:
                raise InvariantBroken(
                    f"channel {channel.hex()} differs: contract {held[2:]}, trace {kept[2:]} (held, paid, closed)"
                )


class RequestCount:
    """Subscribe `observe` to a trace, for the kinds `observed`; `check` at the end."""

    observed = (RequestArrived, RequestFinished)

    def __init__(self) -> None:
        self._open: dict[RequestId, None] = {}
        self.requests = 0
        self.outcomes: Counter[str] = Counter()

    def observe(self, event: Any) -> None:
        """Any trace event; arrivals and ends count."""
        if isinstance(event, RequestArrived):
            if event.request_id in self._open:
                raise InvariantBroken(f"request {event.request_id.hex()} arrived twice")
            self._open[event.request_id] = None
            self.requests += 1
        elif isinstance(event, RequestFinished):
            if event.outcome not in OUTCOMES:
                raise InvariantBroken(
                    f"request {event.request_id.hex()} ended as {event.outcome!r}, not as one of {', '.join(OUTCOMES)}"
                )
            if event.request_id not in self._open:
                raise InvariantBroken(f"request {event.request_id.hex()} ended twice or never arrived")
            del self._open[event.request_id]
            self.outcomes[event.outcome] += 1

    def check(self, unfinished: int) -> None:
        """`unfinished` is what the gateways still hold, counted there and not here."""
        total = sum(self.outcomes.values()) + unfinished
        if total != self.requests:
            parts = " + ".join(f"{self.outcomes[name]} {name}" for name in OUTCOMES)
            raise InvariantBroken(f"{self.requests} requests, but {parts} + {unfinished} unfinished = {total}")
