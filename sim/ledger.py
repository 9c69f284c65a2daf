"""The simulated chain: one contract model shared by all nodes, with blocks, and one `Ledger` view for each account.

A transaction is applied at the first block boundary after its submission, in the order of submission, at the chain's own time;
it is final there. Opening a channel costs `opening_cost_credits` of another coin: routing sees it, no balance here moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import floor

import msgspec

from quiver.errors import SettlementError
from quiver.ids import Address, ChannelId, PeerId
from quiver.ports import Clock, Trace
from quiver.settlement.contract import Contract
from quiver.trace import LedgerMoved
from quiver.values.ledger import (
    BondState,
    ChallengeState,
    ChannelState,
    EpochState,
    Fault,
    LedgerEvent,
    Transaction,
)


class SimChain:
    """The contract, its clock and its history. The history is the chain: it grows with the run."""

    def __init__(
        self,
        contract: Contract,
        clock: Clock,
        *,
        trace: Trace,
        block_time_s: float = 2.0,
        opening_cost_credits: int = 0,
    ) -> None:
        self.contract = contract
        self.opening_cost_credits = opening_cost_credits
        self.events: list[LedgerEvent] = []
        self._clock = clock
        self._block_time_s = block_time_s
        self._trace = trace

    def view(self, account: Address, peer_id: PeerId) -> SimLedger:
        """The port of one node; its transactions must name `account` as sender."""
        return SimLedger(self, account, peer_id)

    async def include(self, transaction: Transaction, node: PeerId) -> LedgerEvent:
        """Wait for the next block and apply there."""
        await self._clock.sleep(self._next_block_in_s())
        event = self.contract.apply(transaction, self._clock.utc_ms())
        self.events.append(event)
        self._trace.emit(LedgerMoved(at_s=self._clock.now(), node=node, event=event))
        return event

    def _next_block_in_s(self) -> float:
        if self._block_time_s <= 0:
            return 0.0
        now = self._clock.now()
        return (floor(now / self._block_time_s) + 1) * self._block_time_s - now


class SimLedger:
    """One account's view of a `SimChain`: the `Ledger` port."""

    def __init__(self, chain: SimChain, account: Address, peer_id: PeerId) -> None:
        self._chain = chain
        self._account = account
        self._peer_id = peer_id
        self.chain_id = chain.contract.chain_id
        self.contract = chain.contract.contract
        self.opening_cost_credits = chain.opening_cost_credits

    async def submit(self, transaction: Transaction) -> bytes:
        """Id of the transaction once its block is there; `SettlementError` as the contract says, or `not_the_sender`."""
        if transaction.sender != self._account:
            raise SettlementError("not_the_sender", "a node can only sign for its own account")
        event = await self._chain.include(transaction, self._peer_id)
        return hashlib.sha256(event.index.to_bytes(8, "big") + msgspec.msgpack.encode(transaction)).digest()

    def events(self, cursor: int) -> Sequence[LedgerEvent]:
        """Events with `index >= cursor`, oldest first."""
        return self._chain.events[max(cursor, 0) :]

    def channel(self, channel_id: ChannelId) -> ChannelState | None:
        """State of a channel."""
        return self._chain.contract.channel(channel_id)

    def balance(self, account: Address) -> int:
        """Free credits of an account."""
        return self._chain.contract.balance(account)

    def epoch(self, number: int) -> EpochState | None:
        """The commitment of an epoch, once submitted."""
        return self._chain.contract.epoch(number)

    def bond(self, account: Address) -> BondState | None:
        """What stands behind the roots of `account`, or None."""
        return self._chain.contract.bond(account)

    def challenge(self, fault: Fault, epoch: int, subject: bytes) -> ChallengeState | None:
        """Where an accusation stands, or None if nobody made it."""
        return self._chain.contract.challenge(fault, epoch, subject)
