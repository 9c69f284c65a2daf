"""The settlement contract as a pure model: transactions in, events out (docs/protocol.md, section 6).

Rules of this file: a refused transaction changes nothing; every check comes before the first change; no clock (callers pass
`now_ms`, the block's time). The sender of a transaction is taken as authenticated by whoever runs the model.
Its tables grow with what is opened, as a chain's do: the bound is what opening costs, not a constant.
Channels are here; roots, bonds and challenges in the files beside it. The contract for an EVM refuses by the same names, checked
in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from quiver.errors import UsageError
from quiver.ids import Address, ChannelId
from quiver.params import Params
from quiver.settlement import channel as channels
from quiver.settlement.accounts import Accounts
from quiver.settlement.bonds import Bonds
from quiver.settlement.challenges import Challenges
from quiver.settlement.channels import Channels, Effect
from quiver.settlement.epochs import Epochs
from quiver.settlement.signed import SignedWords, VerifySession
from quiver.settlement.terms import Terms
from quiver.values.ledger import (
    AnswerLeaf,
    AnswerOmission,
    Bond,
    BondState,
    ChallengeLeaf,
    ChallengeOmission,
    ChallengeState,
    ChannelState,
    Claim,
    ClaimBatch,
    ClaimDirect,
    ClaimDirectBatch,
    Deposit,
    EpochState,
    Fault,
    Finalize,
    FinishExit,
    FinishUnbond,
    LedgerEvent,
    OpenChannel,
    ProveBadHead,
    RequestExit,
    RequestUnbond,
    RotateSession,
    SubmitEpoch,
    TopUp,
    Transaction,
    Withdraw,
)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the contract remembers, in a fixed order. What has a default was added after the first version."""

    chain_id: int
    contract: Address
    aggregator: Address
    deposited: int
    events: int
    balances: tuple[tuple[Address, int], ...]
    channels: tuple[ChannelState, ...]
    epochs: tuple[EpochState, ...]
    withdrawn: int = 0
    burnt: int = 0
    bonds: tuple[BondState, ...] = ()
    challenges: tuple[ChallengeState, ...] = ()


_DECODER = msgspec.msgpack.Decoder(Snapshot)


class Contract(Channels):
    """Free balances, channels, roots, bonds and challenges of one contract on one chain."""

    def __init__(
        self,
        *,
        chain_id: int,
        contract: Address,
        aggregator: Address,
        params: Params,
        verify_session: VerifySession,
    ) -> None:
        self.chain_id = chain_id
        self.contract = contract
        self.aggregator = aggregator
        terms, accounts = Terms.from_params(params), Accounts()
        words, epochs = SignedWords(chain_id, contract, verify_session), Epochs(terms, aggregator)
        super().__init__(terms, words, accounts, epochs)
        self._events = 0
        self._bonds = Bonds(terms, accounts)
        self._challenges = Challenges(
            terms, accounts=accounts, epochs=epochs, bonds=self._bonds, words=words,
            find_channel=self._check_known,
        )  # fmt: skip

    # views

    def channel(self, channel_id: ChannelId) -> ChannelState | None:
        """State of a channel, or None if it was never opened."""
        return self._channels.get(channel_id)

    def balance(self, account: Address) -> int:
        """Free credits of an account."""
        return self._accounts.free(account)

    def epoch(self, number: int) -> EpochState | None:
        """The commitment of an epoch, once submitted."""
        return self._epochs.get(number)

    def bond(self, account: Address) -> BondState | None:
        """What an account has bonded, or None."""
        return self._bonds.get(account)

    def challenge(self, fault: Fault, epoch: int, subject: bytes) -> ChallengeState | None:
        """Where an accusation stands, or None."""
        return self._challenges.get(fault, epoch, subject)

    def balances(self) -> Iterator[tuple[Address, int]]:
        """Accounts with free credits, by address."""
        return self._accounts.items()

    def channel_states(self) -> Iterator[ChannelState]:
        """All channels ever opened, by id."""
        return iter(sorted(self._channels.values(), key=lambda state: state.channel))

    @property
    def deposited(self) -> int:
        """Credits ever deposited."""
        return self._accounts.deposited

    @property
    def held(self) -> int:
        """Credits in channels, bonds and challenges."""
        locked = sum(channels.compute_held(state) for state in self._channels.values())
        return locked + self._bonds.held + self._challenges.held

    @property
    def remaining(self) -> int:
        """Credits that somebody can still take out."""
        return self._accounts.deposited - self._accounts.withdrawn - self._accounts.burnt

    # changes

    def apply(self, transaction: Transaction, now_ms: int) -> LedgerEvent:
        """The event of an accepted transaction; `SettlementError(reason)` and no change for a refused one."""
        effect = self._dispatch(transaction, now_ms)
        event = LedgerEvent(
            index=self._events, at_ms=now_ms, transaction=transaction,
            channel=effect.channel, paid=effect.paid, refunded=effect.refunded, slashed=effect.slashed,
        )  # fmt: skip
        self._events += 1
        return event

    def _dispatch(self, transaction: Transaction, now_ms: int) -> Effect:
        match transaction:
            case OpenChannel():
                return self._open(transaction)
            case TopUp():
                return self._top_up(transaction)
            case RotateSession():
                return self._rotate(transaction, now_ms)
            case Claim():
                return self._claim(transaction, now_ms)
            case ClaimDirect(acknowledgement=ack):
                return self._pay(self._check_acknowledged(ack, now_ms), ack.cum)
            case ClaimBatch():
                return self._claim_batch(transaction, now_ms)
            case ClaimDirectBatch(acknowledgements=acks):
                return self._pay_all(acks, now_ms)
            case RequestExit():
                return self._request_exit(transaction, now_ms)
            case FinishExit():
                return self._finish_exit(transaction, now_ms)
            case Deposit(sender=sender, amount=amount):
                self._accounts.deposit(sender, amount)
            case Withdraw(sender=sender, amount=amount):
                self._accounts.withdraw(sender, amount)
            case SubmitEpoch(sender=sender, commitment=commitment):
                self._epochs.check_posting(commitment, sender, now_ms)
                self._bonds.check_poster(sender)
                self._epochs.post(commitment, sender, now_ms)
            case _:
                return self._dispute(transaction, now_ms)
        return Effect()

    def _dispute(self, transaction: Transaction, now_ms: int) -> Effect:
        match transaction:
            case Bond():
                self._bonds.bond(transaction)
            case RequestUnbond(sender=sender):
                self._bonds.request_unbond(sender, now_ms)
            case FinishUnbond(sender=sender):
                return Effect(refunded=self._bonds.finish_unbond(sender, now_ms))
            case ChallengeOmission():
                self._challenges.challenge_omission(transaction, now_ms)
            case ChallengeLeaf():
                self._challenges.challenge_leaf(transaction, now_ms)
            case AnswerOmission():
                return Effect(paid=self._challenges.answer_omission(transaction, now_ms))
            case AnswerLeaf():
                return Effect(paid=self._challenges.answer_leaf(transaction, now_ms))
            case ProveBadHead():
                slashed, reward = self._challenges.prove_bad_head(transaction, now_ms)
                return Effect(paid=reward, slashed=slashed)
            case Finalize():
                slashed, reward = self._challenges.finalize(transaction, now_ms)
                return Effect(paid=reward, refunded=self.terms.stake, slashed=slashed)
            case _:
                raise UsageError(f"{type(transaction).__name__} is not a transaction of the contract")
        return Effect()

    # own invariants and persistence

    def validate(self) -> None:
        """Conservation to the unit: deposited = free balances + all that is held + what left; nothing is below zero."""
        self._validate_channels()
        self._epochs.validate()
        self._bonds.validate()
        self._accounts.validate(self.held)

    def to_snapshot(self) -> bytes:
        """All state as MessagePack; equal states give equal bytes."""
        accounts = self._accounts
        return msgspec.msgpack.encode(
            Snapshot(
                chain_id=self.chain_id, contract=self.contract, aggregator=self.aggregator,
                deposited=accounts.deposited, withdrawn=accounts.withdrawn, burnt=accounts.burnt, events=self._events,
                balances=tuple(self.balances()), channels=tuple(self.channel_states()), epochs=self._epochs.states(),
                bonds=self._bonds.states(), challenges=self._challenges.states(),
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
            chain_id=kept.chain_id, contract=kept.contract, aggregator=kept.aggregator, params=params,
            verify_session=verify_session,
        )  # fmt: skip
        accounts, self._events = self._accounts, kept.events
        accounts.deposited, accounts.withdrawn, accounts.burnt = kept.deposited, kept.withdrawn, kept.burnt
        accounts.restore(kept.balances)
        self._channels = {state.channel: state for state in kept.channels}
        self._epochs.restore(kept.epochs)
        self._bonds.restore(kept.bonds)
        self._challenges.restore(kept.challenges)
        return self
