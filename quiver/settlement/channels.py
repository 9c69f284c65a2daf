"""Channels of the contract model: opening, paying, leaving. `channel` says what one state means.

Rules of this file: those of `contract`: every check before the first change, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from quiver.errors import SettlementError
from quiver.ids import Address, ChannelId, compute_channel_id
from quiver.settlement import channel as channels
from quiver.settlement.accounts import Accounts, check_address
from quiver.settlement.epochs import Epochs
from quiver.settlement.signed import UINT64_MAX, SignedWords, check_numbers
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    ChannelState,
    Claim,
    ClaimBatch,
    FinishExit,
    Leaf,
    OpenChannel,
    RequestExit,
    RotateSession,
    TopUp,
)
from quiver.values.receipt import Acknowledgement

# What one transaction may claim: a chain's block has room for it.
CLAIMS_PER_BATCH_MAX = 64


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What one accepted transaction did, for its event."""

    channel: ChannelId | None = None
    paid: int = 0
    refunded: int = 0
    slashed: int = 0


class Channels:
    """The part of the contract that holds payers' credits and pays providers. Never deletes a channel: its id must not come back."""

    def __init__(self, terms: Terms, words: SignedWords, accounts: Accounts, epochs: Epochs) -> None:
        self.terms = terms
        self._words = words
        self._accounts = accounts
        self._epochs = epochs
        self._channels: dict[ChannelId, ChannelState] = {}

    def _open(self, transaction: OpenChannel) -> Effect:
        check_address(transaction.provider)
        check_address(transaction.session)
        if not 0 <= transaction.nonce <= UINT64_MAX:
            raise SettlementError("nonce_out_of_range", "a channel nonce is an 8-byte unsigned number")
        channel_id = compute_channel_id(self._words.domain, transaction.sender, transaction.provider, transaction.nonce)
        if channel_id in self._channels:
            raise SettlementError(
                "channel_exists", f"nonce {transaction.nonce} was used with this provider before; take another"
            )
        self._accounts.check_funds(transaction.sender, transaction.amount)
        self._accounts.debit(transaction.sender, transaction.amount)
        self._channels[channel_id] = ChannelState(
            channel=channel_id, payer=transaction.sender, provider=transaction.provider, session=transaction.session,
            locked=transaction.amount, paid=0,
        )  # fmt: skip
        return Effect(channel=channel_id)

    def _top_up(self, transaction: TopUp) -> Effect:
        state = self._check_payer(transaction.channel, transaction.sender)
        if state.exit_at_ms is not None:
            raise SettlementError(
                "exit_pending", "a channel whose exit was requested cannot be topped up; open another"
            )
        self._accounts.check_funds(transaction.sender, transaction.amount)
        self._accounts.debit(transaction.sender, transaction.amount)
        self._channels[state.channel] = channels.top_up(state, transaction.amount)
        return Effect(channel=state.channel)

    def _rotate(self, transaction: RotateSession, now_ms: int) -> Effect:
        check_address(transaction.session)
        state = self._check_payer(transaction.channel, transaction.sender)
        if state.rotates_at_ms is not None and now_ms < state.rotates_at_ms:
            raise SettlementError("rotation_pending", f"a new key counts in {state.rotates_at_ms - now_ms} ms")
        self._channels[state.channel] = channels.start_rotation(
            state, transaction.session, now_ms=now_ms, rotates_at_ms=now_ms + self.terms.exit_delay_ms
        )
        return Effect(channel=state.channel)

    def _claim(self, transaction: Claim, now_ms: int) -> Effect:
        leaf, ack = transaction.leaf, transaction.acknowledgement
        self._epochs.check_known(leaf.epoch)
        if leaf != leaf_of(ack, leaf.epoch):
            raise SettlementError("leaf_mismatch", "leaf and acknowledgement differ in channel, seq, cum or head")
        self._epochs.check_proof(leaf, transaction.proof)
        return self._pay(self._check_acknowledged(ack, now_ms), ack.cum)

    def _claim_batch(self, transaction: ClaimBatch, now_ms: int) -> Effect:
        acks = transaction.acknowledgements
        self._epochs.check_known(transaction.epoch)
        check_batch(acks)
        leaves = [leaf_of(ack, transaction.epoch) for ack in acks]
        self._epochs.check_proofs(transaction.epoch, leaves, transaction.proof)
        return self._pay_all(acks, now_ms)

    def _pay_all(self, acks: Sequence[Acknowledgement], now_ms: int) -> Effect:
        check_batch(acks)
        # Signatures of all before the first payment: a refused batch changes nothing.
        states = [self._check_signed(ack, now_ms) for ack in acks]
        dues: dict[ChannelId, int] = {}
        for state, ack in zip(states, acks, strict=True):
            # A closed channel has all it locked paid out, so nothing is due on it.
            dues[state.channel] = max(dues.get(state.channel, 0), channels.compute_due(state, ack.cum))
        total = sum(dues.values())
        if total == 0:
            raise SettlementError("nothing_due", f"none of {len(acks)} acknowledgements brings anything")
        for channel_id, due in dues.items():
            self._pay_channel(self._channels[channel_id], due)
        return Effect(paid=total)

    def _pay(self, state: ChannelState, cum: int) -> Effect:
        due = channels.compute_due(state, cum)
        if due == 0:
            raise SettlementError("nothing_due", f"{state.paid} credits were paid already, of {state.locked} locked")
        self._pay_channel(state, due)
        return Effect(channel=state.channel, paid=due)

    def _pay_channel(self, state: ChannelState, due: int) -> None:
        self._channels[state.channel] = channels.pay(state, due)
        self._accounts.credit(state.provider, due)

    def _request_exit(self, transaction: RequestExit, now_ms: int) -> Effect:
        state = self._check_payer(transaction.channel, transaction.sender)
        if state.exit_at_ms is not None:
            raise SettlementError("exit_pending", "the exit of this channel was requested before")
        self._channels[state.channel] = channels.start_exit(state, now_ms + self.terms.exit_delay_ms)
        return Effect(channel=state.channel)

    def _finish_exit(self, transaction: FinishExit, now_ms: int) -> Effect:
        state = self._check_payer(transaction.channel, transaction.sender)
        if state.exit_at_ms is None:
            raise SettlementError("exit_not_requested", "request the exit first")
        if now_ms < state.exit_at_ms:
            raise SettlementError("exit_too_early", f"the exit may finish in {state.exit_at_ms - now_ms} ms")
        refund = channels.compute_held(state)
        self._channels[state.channel] = channels.close(state)
        self._accounts.credit(state.payer, refund)
        return Effect(channel=state.channel, refunded=refund)

    # checks

    def _check_known(self, channel_id: ChannelId) -> ChannelState:
        state = self._channels.get(channel_id)
        if state is None:
            raise SettlementError("unknown_channel", f"no channel {channel_id.hex()} was ever opened")
        return state

    def _check_open(self, channel_id: ChannelId) -> ChannelState:
        state = self._check_known(channel_id)
        if state.closed:
            raise SettlementError("channel_closed", "the payer has left this channel")
        return state

    def _check_payer(self, channel_id: ChannelId, sender: Address) -> ChannelState:
        state = self._check_open(channel_id)
        if sender != state.payer:
            raise SettlementError("not_the_payer", "only the channel's payer may do this")
        return state

    def _check_acknowledged(self, ack: Acknowledgement, now_ms: int) -> ChannelState:
        check_numbers(ack.seq, ack.cum, head=ack.head)
        self._check_open(ack.channel)
        return self._check_signed(ack, now_ms)

    def _check_signed(self, ack: Acknowledgement, now_ms: int) -> ChannelState:
        check_numbers(ack.seq, ack.cum, head=ack.head)
        state = self._check_known(ack.channel)
        self._words.check_acknowledged((channels.session_at(state, now_ms),), ack)
        return state

    def _validate_channels(self) -> None:
        for key, state in self._channels.items():
            assert key == state.channel, "a channel is filed under another id"
            assert 0 <= state.paid <= state.locked, f"channel {key.hex()}: {state.paid} paid of {state.locked} locked"
            assert not state.closed or state.paid == state.locked, f"closed channel {key.hex()} still holds credits"


def leaf_of(ack: Acknowledgement, epoch: int) -> Leaf:
    """The leaf that commits what `ack` says."""
    return Leaf(epoch=epoch, channel=ack.channel, cum=ack.cum, seq=ack.seq, head=ack.head)


def check_batch(acks: Sequence[Acknowledgement]) -> None:
    """`SettlementError` for an empty batch or one that no block would hold."""
    if not 0 < len(acks) <= CLAIMS_PER_BATCH_MAX:
        raise SettlementError(
            "batch_size", f"a batch has 1 to {CLAIMS_PER_BATCH_MAX} acknowledgements, not {len(acks)}"
        )
