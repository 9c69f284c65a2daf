"""Transactions, events and views of the settlement contract."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from quiver.ids import Address, ChannelId
from quiver.values.receipt import Acknowledgement


class Leaf(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One channel's last acknowledged state in an epoch. Hashed bytes: docs/protocol.md, Leaf."""

    epoch: int
    channel: ChannelId
    cum: int
    seq: int
    head: bytes


class Proof(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """RFC 6962 inclusion proof: siblings from the leaf up."""

    index: int
    count: int
    siblings: tuple[bytes, ...]


class MultiProof(msgspec.Struct, frozen=True, kw_only=True):
    """One proof for several leaves of a tree: their places, ascending, and the siblings that do not follow from them.

    Siblings are read level by level from the leaves up, in each from left to right.
    """

    indices: tuple[int, ...]
    count: int
    siblings: tuple[bytes, ...]


class Commitment(msgspec.Struct, frozen=True, kw_only=True):
    """An epoch's Merkle root over `count` leaves."""

    epoch: int
    root: bytes
    count: int


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """An aggregator's signed word that the leaf of `channel` in `epoch` will be at `seq` or later."""

    epoch: int
    channel: ChannelId
    cum: int
    seq: int
    head: bytes
    signature: bytes
    "secp256k1 r | s | v over docs/protocol.md, Promise, by the signer its bond names."


class SignedCommitment(msgspec.Struct, frozen=True, kw_only=True):
    """A commitment that its poster also handed out off the chain, signed."""

    commitment: Commitment
    signature: bytes


class Deposit(msgspec.Struct, frozen=True, kw_only=True, tag="deposit"):
    """Credits appear on an account: the faucet of simulations and test networks."""

    sender: Address
    amount: int


class Withdraw(msgspec.Struct, frozen=True, kw_only=True, tag="withdraw"):
    """Free credits leave the contract as coin of the chain."""

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


class RotateSession(msgspec.Struct, frozen=True, kw_only=True, tag="rotate_session"):
    """From a delay on, `session` acknowledges instead: until then a provider may claim what the old key signed."""

    sender: Address
    channel: ChannelId
    session: Address


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


class ClaimBatch(msgspec.Struct, frozen=True, kw_only=True, tag="claim_batch"):
    """Several claims of one epoch under one proof: the acknowledgements' leaves, by ascending place in the tree.

    A channel that is closed, or has nothing due, is passed over, so that no payer can spoil the batch of others.
    """

    sender: Address
    epoch: int
    acknowledgements: tuple[Acknowledgement, ...]
    proof: MultiProof


class ClaimDirectBatch(msgspec.Struct, frozen=True, kw_only=True, tag="claim_direct_batch"):
    """Several direct claims; passes over what `ClaimBatch` passes over."""

    sender: Address
    acknowledgements: tuple[Acknowledgement, ...]


class RequestExit(msgspec.Struct, frozen=True, kw_only=True, tag="request_exit"):
    """The payer wants its unspent credits back."""

    sender: Address
    channel: ChannelId


class FinishExit(msgspec.Struct, frozen=True, kw_only=True, tag="finish_exit"):
    """After the delay, the rest returns to the payer."""

    sender: Address
    channel: ChannelId


class Bond(msgspec.Struct, frozen=True, kw_only=True, tag="bond"):
    """Whoever posts roots answers for them with this; `signer` signs its promises, and stays while the bond does."""

    sender: Address
    amount: int
    signer: Address


class RequestUnbond(msgspec.Struct, frozen=True, kw_only=True, tag="request_unbond"):
    """The poster wants its bond back, and posts no root any more."""

    sender: Address


class FinishUnbond(msgspec.Struct, frozen=True, kw_only=True, tag="finish_unbond"):
    """After a delay longer than every window, and with no challenge open, the bond returns."""

    sender: Address


class ChallengeOmission(msgspec.Struct, frozen=True, kw_only=True, tag="challenge_omission"):
    """Accuse: this promise was not kept, the root holds no leaf of its channel as new as promised."""

    sender: Address
    promise: Promise


class AnswerOmission(msgspec.Struct, frozen=True, kw_only=True, tag="answer_omission"):
    """Show the leaf: of the same epoch and channel, at `promised_seq` or later. Anyone may answer, and earns the stake."""

    sender: Address
    promised_seq: int
    leaf: Leaf
    proof: Proof


class ChallengeLeaf(msgspec.Struct, frozen=True, kw_only=True, tag="challenge_leaf"):
    """Accuse: nobody acknowledged this leaf, shown to be under a posted root."""

    sender: Address
    leaf: Leaf
    proof: Proof


class AnswerLeaf(msgspec.Struct, frozen=True, kw_only=True, tag="answer_leaf"):
    """Show that its payer did: the session key's signature over the leaf's channel, cum, seq and head."""

    sender: Address
    leaf: Leaf
    signature: bytes


class ProveBadHead(msgspec.Struct, frozen=True, kw_only=True, tag="prove_bad_head"):
    """The poster signed another commitment for the same epoch than it posted: slashed at once."""

    sender: Address
    signed: SignedCommitment


class Fault(StrEnum):
    """What a poster may be accused of."""

    OMISSION = "omission"
    LEAF = "leaf"
    HEAD = "head"


class Finalize(msgspec.Struct, frozen=True, kw_only=True, tag="finalize"):
    """Slash for a challenge that nobody answered in time."""

    sender: Address
    fault: Fault
    epoch: int
    subject: bytes
    "See `ChallengeState`."


Transaction = (
    Deposit
    | Withdraw
    | OpenChannel
    | TopUp
    | RotateSession
    | SubmitEpoch
    | Claim
    | ClaimBatch
    | ClaimDirect
    | ClaimDirectBatch
    | RequestExit
    | FinishExit
    | Bond
    | RequestUnbond
    | FinishUnbond
    | ChallengeOmission
    | AnswerOmission
    | ChallengeLeaf
    | AnswerLeaf
    | ProveBadHead
    | Finalize
)


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
    next_session: Address | None = None
    "Acknowledges instead of `session` from `rotates_at_ms` on."
    rotates_at_ms: int | None = None


class EpochState(msgspec.Struct, frozen=True, kw_only=True):
    """A commitment and who made it."""

    commitment: Commitment
    submitted_ms: int
    poster: Address = Address(bytes(20))
    "Whose bond answers for it; all zero in a record written before posters were kept."


class BondState(msgspec.Struct, frozen=True, kw_only=True):
    """What stands behind the roots of `account`."""

    account: Address
    signer: Address
    amount: int
    challenges: int = 0
    "Open ones; none may be when the bond returns."
    unbond_at_ms: int | None = None


class Verdict(StrEnum):
    """Where a challenge stands."""

    OPEN = "open"
    ANSWERED = "answered"
    SLASHED = "slashed"


class ChallengeState(msgspec.Struct, frozen=True, kw_only=True):
    """An accusation against the poster of `epoch`; kept for ever, so none is made twice."""

    fault: Fault
    epoch: int
    subject: bytes
    "SHA-256(channel32 | promised seq8) of an omission, the leaf's hash, or 32 zero bytes for a head."
    challenger: Address
    respond_by_ms: int
    verdict: Verdict


class LedgerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted transaction and the credits it moved."""

    index: int
    at_ms: int
    transaction: Transaction
    channel: ChannelId | None = None
    paid: int = 0
    "To the provider, or all providers of a batch; in a dispute, to whoever was right."
    refunded: int = 0
    slashed: int = 0
    "Taken from a bond."
    gas_wei: int = 0
    "What its sender paid the chain for it, in the coin's smallest unit; known for a node's own transactions alone, else 0."
