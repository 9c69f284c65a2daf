"""The settlement contract as a pure model: transactions in, events out (docs/protocol.md, section 6).

Rules of this file: a refused transaction changes nothing; every check comes before the first change; no clock (callers pass
`now_ms`, the block's time). The sender of a transaction is taken as authenticated by whoever runs the model.
Its tables grow with what is opened, as a chain's do: the bound is what opening costs, not a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from quiver.errors import ReceiptMismatch, SettlementError, UsageError
from quiver.identity.signing import ack_digest, ack_domain
from quiver.ids import ADDRESS_BYTES, DIGEST_BYTES, Address, ChannelId, compute_channel_id
from quiver.params import Params
from quiver.settlement import channel as channels
from quiver.settlement.merkle import verify
from quiver.units import ms_from_s
from quiver.values.ledger import (
    ChannelState,
    Claim,
    ClaimDirect,
    Deposit,
    EpochState,
    FinishExit,
    LedgerEvent,
    OpenChannel,
    RequestExit,
    SubmitEpoch,
    TopUp,
    Transaction,
)
from quiver.values.receipt import Acknowledgement

VerifySession = Callable[[Address, bytes, bytes], bool]
"""(address, digest, signature) -> valid: `quiver.identity.keys.verify_session` or a modelled one."""

# All credits ever deposited fit a signed 64-bit number, so no sum of balances can overflow anywhere.
SUPPLY_MAX = (1 << 63) - 1
UINT64_MAX = (1 << 64) - 1
_NOBODY = bytes(ADDRESS_BYTES)


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What one accepted transaction did, for its event."""

    channel: ChannelId | None = None
    paid: int = 0
    refunded: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the contract remembers, in a fixed order."""

    chain_id: int
    contract: Address
    aggregator: Address
    deposited: int
    events: int
    balances: tuple[tuple[Address, int], ...]
    channels: tuple[ChannelState, ...]
    epochs: tuple[EpochState, ...]


_DECODER = msgspec.msgpack.Decoder(Snapshot)


class Contract:
    """Free balances, channels and epoch commitments of one contract on one chain."""

    def __init__(
        self, *, chain_id: int, contract: Address, aggregator: Address, params: Params, verify_session: VerifySession
    ) -> None:
        self.chain_id = chain_id
        self.contract = contract
        self.aggregator = aggregator
        self._params = params
        self._verify_session = verify_session
        self._domain = ack_domain(chain_id, contract)
        self._deposited = 0
        self._events = 0
        self._balances: dict[Address, int] = {}
        self._channels: dict[ChannelId, ChannelState] = {}
        self._epochs: dict[int, EpochState] = {}

    # views

    def channel(self, channel_id: ChannelId) -> ChannelState | None:
        """State of a channel, or None if it was never opened."""
        return self._channels.get(channel_id)

    def balance(self, account: Address) -> int:
        """Free credits of an account."""
        return self._balances.get(account, 0)

    def epoch(self, number: int) -> EpochState | None:
        """The commitment of an epoch, once submitted."""
        return self._epochs.get(number)

    def balances(self) -> Iterator[tuple[Address, int]]:
        """Accounts with free credits, by address."""
        return iter(sorted((account, credits) for account, credits in self._balances.items() if credits))

    def channel_states(self) -> Iterator[ChannelState]:
        """All channels ever opened, by id."""
        return iter(sorted(self._channels.values(), key=lambda state: state.channel))

    @property
    def deposited(self) -> int:
        """Credits ever deposited."""
        return self._deposited

    # changes

    def apply(self, transaction: Transaction, now_ms: int) -> LedgerEvent:
        """The event of an accepted transaction; `SettlementError(reason)` and no change for a refused one."""
        match transaction:
            case Deposit():
                effect = self._deposit(transaction)
            case OpenChannel():
                effect = self._open(transaction)
            case TopUp():
                effect = self._top_up(transaction)
            case SubmitEpoch():
                effect = self._submit_epoch(transaction, now_ms)
            case Claim():
                effect = self._claim(transaction)
            case ClaimDirect():
                effect = self._pay(
                    self._check_acknowledged(transaction.acknowledgement), transaction.acknowledgement.cum
                )
            case RequestExit():
                effect = self._request_exit(transaction, now_ms)
            case FinishExit():
                effect = self._finish_exit(transaction, now_ms)
            case _:
                raise UsageError(f"{type(transaction).__name__} is not a transaction of the contract")
        event = LedgerEvent(
            index=self._events, at_ms=now_ms, transaction=transaction,
            channel=effect.channel, paid=effect.paid, refunded=effect.refunded,
        )  # fmt: skip
        self._events += 1
        return event

    def _deposit(self, transaction: Deposit) -> Effect:
        check_address(transaction.sender)
        check_amount(transaction.amount)
        if self._deposited + transaction.amount > SUPPLY_MAX:
            raise SettlementError("supply_exceeded", f"at most {SUPPLY_MAX} credits can ever be deposited")
        self._deposited += transaction.amount
        self._credit(transaction.sender, transaction.amount)
        return Effect()

    def _open(self, transaction: OpenChannel) -> Effect:
        check_address(transaction.provider)
        check_address(transaction.session)
        if not 0 <= transaction.nonce <= UINT64_MAX:
            raise SettlementError("nonce_out_of_range", "a channel nonce is an 8-byte unsigned number")
        channel_id = compute_channel_id(self._domain, transaction.sender, transaction.provider, transaction.nonce)
        if channel_id in self._channels:
            raise SettlementError(
                "channel_exists", f"nonce {transaction.nonce} was used with this provider before; take another"
            )
        self._check_funds(transaction.sender, transaction.amount)
        self._debit(transaction.sender, transaction.amount)
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
        self._check_funds(transaction.sender, transaction.amount)
        self._debit(transaction.sender, transaction.amount)
        self._channels[state.channel] = channels.top_up(state, transaction.amount)
        return Effect(channel=state.channel)

    def _submit_epoch(self, transaction: SubmitEpoch, now_ms: int) -> Effect:
        commitment = transaction.commitment
        if (
            not 0 <= commitment.epoch <= UINT64_MAX
            or not 1 <= commitment.count <= UINT64_MAX
            or len(commitment.root) != DIGEST_BYTES
        ):
            raise SettlementError(
                "malformed_commitment", "a commitment has an epoch, a 32-byte root and at least one leaf"
            )
        if commitment.epoch in self._epochs:
            raise SettlementError("epoch_exists", f"epoch {commitment.epoch} is committed already")
        end_ms = (commitment.epoch + 1) * self._params.epoch_ms
        if now_ms < end_ms:
            raise SettlementError("epoch_not_over", f"epoch {commitment.epoch} ends in {end_ms - now_ms} ms")
        if transaction.sender != self.aggregator and now_ms < end_ms + ms_from_s(self._params.submit_grace_s):
            raise SettlementError("not_the_aggregator", "others may submit only after the grace period")
        self._epochs[commitment.epoch] = EpochState(commitment=commitment, submitted_ms=now_ms)
        return Effect()

    def _claim(self, transaction: Claim) -> Effect:
        leaf, ack = transaction.leaf, transaction.acknowledgement
        committed = self._epochs.get(leaf.epoch)
        if committed is None:
            raise SettlementError(
                "unknown_epoch", f"epoch {leaf.epoch} has no commitment; wait for it or claim directly"
            )
        if (leaf.channel, leaf.seq, leaf.cum, leaf.head) != (ack.channel, ack.seq, ack.cum, ack.head):
            raise SettlementError("leaf_mismatch", "leaf and acknowledgement differ in channel, seq, cum or head")
        try:
            verify(leaf, transaction.proof, committed.commitment)
        except ReceiptMismatch as error:
            raise SettlementError("bad_proof", str(error)) from error
        return self._pay(self._check_acknowledged(ack), ack.cum)

    def _pay(self, state: ChannelState, cum: int) -> Effect:
        due = channels.compute_due(state, cum)
        if due == 0:
            raise SettlementError("nothing_due", f"{state.paid} credits were paid already, of {state.locked} locked")
        self._channels[state.channel] = channels.pay(state, due)
        self._credit(state.provider, due)
        return Effect(channel=state.channel, paid=due)

    def _request_exit(self, transaction: RequestExit, now_ms: int) -> Effect:
        state = self._check_payer(transaction.channel, transaction.sender)
        if state.exit_at_ms is not None:
            raise SettlementError("exit_pending", "the exit of this channel was requested before")
        self._channels[state.channel] = channels.start_exit(state, now_ms + ms_from_s(self._params.exit_delay_s))
        return Effect(channel=state.channel)

    def _finish_exit(self, transaction: FinishExit, now_ms: int) -> Effect:
        state = self._check_payer(transaction.channel, transaction.sender)
        if state.exit_at_ms is None:
            raise SettlementError("exit_not_requested", "request the exit first")
        if now_ms < state.exit_at_ms:
            raise SettlementError("exit_too_early", f"the exit may finish in {state.exit_at_ms - now_ms} ms")
        refund = channels.compute_held(state)
        self._channels[state.channel] = channels.close(state)
        self._credit(state.payer, refund)
        return Effect(channel=state.channel, refunded=refund)

    # checks

    def _check_open(self, channel_id: ChannelId) -> ChannelState:
        state = self._channels.get(channel_id)
        if state is None:
            raise SettlementError("unknown_channel", f"no channel {channel_id.hex()} was ever opened")
        if state.closed:
            raise SettlementError("channel_closed", "the payer has left this channel")
        return state

    def _check_payer(self, channel_id: ChannelId, sender: Address) -> ChannelState:
        state = self._check_open(channel_id)
        if sender != state.payer:
            raise SettlementError("not_the_payer", "only the channel's payer may do this")
        return state

    def _check_acknowledged(self, ack: Acknowledgement) -> ChannelState:
        # Lengths first: packing would cut or pad a field, and two different values would share a digest.
        if len(ack.head) != DIGEST_BYTES or not 0 <= ack.seq <= UINT64_MAX or not 0 <= ack.cum <= UINT64_MAX:
            raise SettlementError(
                "malformed_acknowledgement", "seq and cum are 8-byte unsigned numbers, head has 32 bytes"
            )
        state = self._check_open(ack.channel)
        digest = ack_digest(self._domain, ack.channel, ack.cum, ack.seq, ack.head)
        if not self._verify_session(state.session, digest, ack.signature):
            raise SettlementError("bad_signature", "the acknowledgement is not signed by the channel's session key")
        return state

    def _check_funds(self, account: Address, amount: int) -> None:
        check_amount(amount)
        if (free := self.balance(account)) < amount:
            raise SettlementError("insufficient_balance", f"{amount} credits wanted, {free} are free; deposit first")

    def _credit(self, account: Address, amount: int) -> None:
        self._balances[account] = self._balances.get(account, 0) + amount

    def _debit(self, account: Address, amount: int) -> None:
        self._balances[account] -= amount

    # own invariants and persistence

    def validate(self) -> None:
        """Conservation to the unit: deposited = free balances + what channels hold; no account or channel below zero."""
        held = 0
        for key, state in self._channels.items():
            assert key == state.channel, "a channel is filed under another id"
            assert 0 <= state.paid <= state.locked, f"channel {key.hex()}: {state.paid} paid of {state.locked} locked"
            assert not state.closed or state.paid == state.locked, f"closed channel {key.hex()} still holds credits"
            held += channels.compute_held(state)
        assert all(free >= 0 for free in self._balances.values()), "an account is below zero"
        free = sum(self._balances.values())
        assert self._deposited == free + held, f"{self._deposited} deposited, but {free} free + {held} held"
        assert all(number == state.commitment.epoch for number, state in self._epochs.items()), "an epoch is misfiled"

    def to_snapshot(self) -> bytes:
        """All state as MessagePack; equal states give equal bytes."""
        return msgspec.msgpack.encode(
            Snapshot(
                chain_id=self.chain_id, contract=self.contract, aggregator=self.aggregator, deposited=self._deposited,
                events=self._events, balances=tuple(self.balances()), channels=tuple(self.channel_states()),
                epochs=tuple(self._epochs[number] for number in sorted(self._epochs)),
            )
        )  # fmt: skip

    @classmethod
    def from_snapshot(cls, data: bytes, *, params: Params, verify_session: VerifySession) -> Contract:
        """Inverse of `to_snapshot`; `UsageError` for bytes that are not one."""
        try:
            kept = _DECODER.decode(data)
        except msgspec.MsgspecError as error:
            raise UsageError(f"this is not a snapshot of the contract: {error}") from error
        self = cls(
            chain_id=kept.chain_id,
            contract=kept.contract,
            aggregator=kept.aggregator,
            params=params,
            verify_session=verify_session,
        )
        self._deposited, self._events = kept.deposited, kept.events
        self._balances = dict(kept.balances)
        self._channels = {state.channel: state for state in kept.channels}
        self._epochs = {state.commitment.epoch: state for state in kept.epochs}
        return self


def check_address(address: Address) -> None:
    """`SettlementError` unless it is 20 bytes and somebody's."""
    if len(address) != ADDRESS_BYTES or address == _NOBODY:
        raise SettlementError("malformed_address", f"an account has {ADDRESS_BYTES} bytes, not all zero")


def check_amount(amount: int) -> None:
    """`SettlementError` unless it is a positive number of credits that can exist."""
    if not 0 < amount <= SUPPLY_MAX:
        raise SettlementError("amount_out_of_range", f"an amount is 1 to {SUPPLY_MAX} credits, not {amount}")
