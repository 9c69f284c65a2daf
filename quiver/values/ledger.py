"""Transactions, events and views of the settlement contract."""

from __future__ import annotations

import msgspec

from quiver.ids import Address, ChannelId
from quiver.values.receipt import Acknowledgement


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """One channel's last acknowledged state in an epoch. Hashed bytes: docs/protocol.md, Leaf."""

    epoch: int
    channel: ChannelId
    cum: int
    seq: int
    head: bytes


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 6962 inclusion proof: siblings from the leaf up."""

    index: int
    count: int
    siblings: tuple[bytes, ...]


class Commitment(msgspec.Struct, frozen=True, kw_only=True):
    """An epoch's Merkle root over `count` leaves."""

    epoch: int
    root: bytes
    count: int


class Deposit(msgspec.Struct, frozen=True, kw_only=True, tag="deposit"):
    """Credits appear on an account: the faucet of simulations and test networks."""

    sender: Address
    amount: int


class OpenChannel(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Lock `amount` of the sender's credits for `provider`; `session` may acknowledge."""

    sender: Address
    provider: Address
    session: Address
    amount: int
    nonce: int


class TopUp(msgspec.Struct, frozen=True, kw_only=True, tag="top_up"):
    """Lock more."""

    sender: Address
    channel: ChannelId
    amount: int


class SubmitEpoch(msgspec.Struct, frozen=True, kw_only=True, tag="submit_epoch"):
    """The aggregator's commitment; once per epoch."""

    sender: Address
    commitment: Commitment


class Claim(msgspec.Struct, frozen=True, kw_only=True, tag="claim"):
    """Pay the provider up to `acknowledgement.cum`, shown to be in an epoch. Anyone may send it."""

    sender: Address
    leaf: Leaf
    proof: Proof
    acknowledgement: Acknowledgement


class ClaimDirect(msgspec.Struct, frozen=True, kw_only=True, tag="claim_direct"):
    """The same without an epoch: nobody can withhold a provider's pay."""

    sender: Address
    acknowledgement: Acknowledgement


class RequestExit(msgspec.Struct, frozen=True, kw_only=True, tag="request_exit"):
    """The payer wants its unspent credits back."""

    sender: Address
    channel: ChannelId


class FinishExit(msgspec.Struct, frozen=True, kw_only=True, tag="finish_exit"):
    """After the delay, the rest returns to the payer."""

    sender: Address
    channel: ChannelId


Transaction = Deposit | OpenChannel | TopUp | SubmitEpoch | Claim | ClaimDirect | RequestExit | FinishExit


class ChannelState(msgspec.Struct, frozen=True, kw_only=True):
    """A channel as the contract holds it. Never deleted, so an id is never reused."""

    channel: ChannelId
    payer: Address
    provider: Address
    session: Address
    locked: int
    paid: int
    exit_at_ms: int | None = None
    "utc_ms from which FinishExit is allowed; None while no exit is pending."
    closed: bool = False


class EpochState(msgspec.Struct, frozen=True, kw_only=True):
    """A commitment and who made it."""

    commitment: Commitment
    submitted_ms: int


class LedgerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted transaction and the credits it moved."""

    index: int
    at_ms: int
    transaction: Transaction
    channel: ChannelId | None = None
    paid: int = 0
    refunded: int = 0
