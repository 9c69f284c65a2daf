"""What must hold in every world, checked by somebody who only reads the trace.

`SecondBookkeeper` keeps every balance from `LedgerMoved` events by its own arithmetic; `RequestCount` checks
requests = completed + rejected + failed + cancelled + unfinished. Neither shares code with what it checks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from quiver.ids import Address, ChannelId, RequestId
from quiver.settlement.contract import Contract
from quiver.trace import LedgerMoved, RequestArrived, RequestFinished
from quiver.values.ledger import (
    Bond,
    Claim,
    ClaimBatch,
    ClaimDirect,
    ClaimDirectBatch,
    Deposit,
    FinishExit,
    FinishUnbond,
    LedgerEvent,
    OpenChannel,
    RequestExit,
    RotateSession,
    TopUp,
    Withdraw,
)
from quiver.values.receipt import Acknowledgement

OUTCOMES = ("completed", "rejected", "failed", "cancelled")


class InvariantBroken(AssertionError):
    """The world contradicts its own trace."""


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

    Disputes are not in its books: where bonds are slashed, the contract on an EVM is the second opinion (tests/evm).
    """

    observed = (LedgerMoved,)

    def __init__(self) -> None:
        self.balances: Counter[Address] = Counter()
        self.channels: dict[ChannelId, Book] = {}
        self.bonds: Counter[Address] = Counter()
        self.deposited = 0
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
        if (event.paid, event.refunded) != (paid, refunded):
            raise InvariantBroken(
                f"ledger event {event.index} moved {event.paid} to the provider and {event.refunded} back, expected {paid} and {refunded}"
            )

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
        """`InvariantBroken` names the first account or channel on which contract and trace differ."""
        if contract.deposited != self.deposited:
            raise InvariantBroken(
                f"the contract counts {contract.deposited} deposited credits, the trace {self.deposited}"
            )
        ours = sorted((account, credits) for account, credits in self.balances.items() if credits)
        theirs = list(contract.balances())
        for mine, other in zip(ours, theirs, strict=False):
            if mine != other:
                raise InvariantBroken(
                    f"free credits differ: contract {other[0].hex()} {other[1]}, trace {mine[0].hex()} {mine[1]}"
                )
        if len(ours) != len(theirs):
            raise InvariantBroken(f"the contract has {len(theirs)} accounts with credits, the trace {len(ours)}")
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
