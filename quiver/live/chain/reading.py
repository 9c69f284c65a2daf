"""Calldata read back into transactions: what somebody asked of the contract.

Rules of this file: no I/O; the inverse of `calls`. Only for calls that the contract accepted, so every value is in its range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from quiver.ids import Address, ChannelId
from quiver.live.chain.answers import FAULTS, address_of
from quiver.live.chain.artefact import selector
from quiver.live.chain.calls import ACK, LEAF, SIGNATURE
from quiver.settlement.channels import leaf_of
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
    Commitment,
    Deposit,
    Finalize,
    FinishExit,
    FinishUnbond,
    Leaf,
    MultiProof,
    OpenChannel,
    Promise,
    Proof,
    ProveBadHead,
    RequestExit,
    RequestUnbond,
    RotateSession,
    SignedCommitment,
    SubmitEpoch,
    TopUp,
    Transaction,
    Withdraw,
)
from quiver.values.receipt import Acknowledgement

LeafCount = Callable[[int], int]
"Leaves of an epoch's root: a proof's bytes do not repeat them."


def decode_call(sender: Address, calldata: bytes, leaf_count: LeafCount) -> Transaction | None:
    """What the calldata says; None for a call that is no transaction of ours."""
    known = _READERS.get(calldata[:4])
    if known is None:
        return None
    types, read = known
    try:
        return read(sender, leaf_count, *decode(types, calldata[4:]))
    except (DecodingError, OverflowError):
        return None


def _signature(fields: Any) -> bytes:
    r, s, v = fields
    return bytes(r + s + bytes([v]))


def _ack(fields: Any) -> Acknowledgement:
    channel, cum, seq, head, signature = fields
    return Acknowledgement(channel=ChannelId(channel), cum=cum, seq=seq, head=head, signature=_signature(signature))


def _leaf(fields: Any) -> Leaf:
    epoch, channel, cum, seq, head = fields
    return Leaf(epoch=epoch, channel=ChannelId(channel), cum=cum, seq=seq, head=head)


def _open(sender: Address, _: LeafCount, provider: str, session: str, amount: int, nonce: int) -> Transaction:
    return OpenChannel(
        sender=sender, provider=address_of(provider), session=address_of(session), amount=amount, nonce=nonce
    )


def _claim(sender: Address, count: LeafCount, epoch: int, ack: Any, index: int, siblings: Any) -> Transaction:
    acknowledgement = _ack(ack)
    proof = Proof(index=index, count=count(epoch), siblings=tuple(siblings))
    return Claim(sender=sender, leaf=leaf_of(acknowledgement, epoch), proof=proof, acknowledgement=acknowledgement)


def _claim_batch(sender: Address, count: LeafCount, epoch: int, acks: Any, places: Any, siblings: Any) -> Transaction:
    proof = MultiProof(indices=tuple(places), count=count(epoch), siblings=tuple(siblings))
    return ClaimBatch(sender=sender, epoch=epoch, acknowledgements=tuple(map(_ack, acks)), proof=proof)


def _challenge_omission(
    sender: Address, _: LeafCount, epoch: int, channel: bytes, cum: int, seq: int, head: bytes, signature: Any
) -> Transaction:
    promise = Promise(
        epoch=epoch, channel=ChannelId(channel), cum=cum, seq=seq, head=head, signature=_signature(signature)
    )
    return ChallengeOmission(sender=sender, promise=promise)


def _answer_omission(
    sender: Address, count: LeafCount, promised: int, leaf: Any, index: int, siblings: Any
) -> Transaction:
    shown = _leaf(leaf)
    proof = Proof(index=index, count=count(shown.epoch), siblings=tuple(siblings))
    return AnswerOmission(sender=sender, promised_seq=promised, leaf=shown, proof=proof)


def _challenge_leaf(sender: Address, count: LeafCount, leaf: Any, index: int, siblings: Any) -> Transaction:
    accused = _leaf(leaf)
    proof = Proof(index=index, count=count(accused.epoch), siblings=tuple(siblings))
    return ChallengeLeaf(sender=sender, leaf=accused, proof=proof)


def _prove_bad_head(sender: Address, _: LeafCount, epoch: int, root: bytes, count: int, signature: Any) -> Transaction:
    commitment = Commitment(epoch=epoch, root=root, count=count)
    return ProveBadHead(sender=sender, signed=SignedCommitment(commitment=commitment, signature=_signature(signature)))


def _reader(name: str, types: list[str], read: Callable[..., Transaction]) -> tuple[bytes, tuple[list[str], Any]]:
    return selector(f"{name}({','.join(types)})"), (types, read)


_READERS: dict[bytes, tuple[list[str], Callable[..., Transaction]]] = dict(
    (
        _reader("deposit", ["uint256"], lambda sender, _, amount: Deposit(sender=sender, amount=amount)),
        _reader("withdraw", ["uint256"], lambda sender, _, amount: Withdraw(sender=sender, amount=amount)),
        _reader("open", ["address", "address", "uint256", "uint64"], _open),
        _reader(
            "top_up",
            ["bytes32", "uint256"],
            lambda sender, _, channel, amount: TopUp(sender=sender, channel=ChannelId(channel), amount=amount),
        ),
        _reader(
            "rotate_session_key",
            ["bytes32", "address"],
            lambda sender, _, channel, session: RotateSession(
                sender=sender, channel=ChannelId(channel), session=address_of(session)
            ),
        ),
        _reader(
            "request_exit",
            ["bytes32"],
            lambda sender, _, channel: RequestExit(sender=sender, channel=ChannelId(channel)),
        ),
        _reader(
            "finish_exit",
            ["bytes32"],
            lambda sender, _, channel: FinishExit(sender=sender, channel=ChannelId(channel)),
        ),
        _reader(
            "submit_epoch",
            ["uint64", "bytes32", "uint256"],
            lambda sender, _, epoch, root, count: SubmitEpoch(
                sender=sender, commitment=Commitment(epoch=epoch, root=root, count=count)
            ),
        ),
        _reader("claim", ["uint64", ACK, "uint256", "bytes32[]"], _claim),
        _reader("claim_direct", [ACK], lambda sender, _, ack: ClaimDirect(sender=sender, acknowledgement=_ack(ack))),
        _reader("claim_batch", ["uint64", f"{ACK}[]", "uint256[]", "bytes32[]"], _claim_batch),
        _reader(
            "claim_direct_batch",
            [f"{ACK}[]"],
            lambda sender, _, acks: ClaimDirectBatch(sender=sender, acknowledgements=tuple(map(_ack, acks))),
        ),
        _reader(
            "bond",
            ["uint256", "address"],
            lambda sender, _, amount, signer: Bond(sender=sender, amount=amount, signer=address_of(signer)),
        ),
        _reader("request_unbond", [], lambda sender, _: RequestUnbond(sender=sender)),
        _reader("finish_unbond", [], lambda sender, _: FinishUnbond(sender=sender)),
        _reader(
            "challenge_omission", ["uint64", "bytes32", "uint64", "uint64", "bytes32", SIGNATURE], _challenge_omission
        ),
        _reader("answer_omission", ["uint64", LEAF, "uint256", "bytes32[]"], _answer_omission),
        _reader("challenge_leaf", [LEAF, "uint256", "bytes32[]"], _challenge_leaf),
        _reader(
            "answer_leaf",
            [LEAF, SIGNATURE],
            lambda sender, _, leaf, signature: AnswerLeaf(
                sender=sender, leaf=_leaf(leaf), signature=_signature(signature)
            ),
        ),
        _reader("prove_bad_head", ["uint64", "bytes32", "uint64", SIGNATURE], _prove_bad_head),
        _reader(
            "finalize",
            ["uint256", "uint64", "bytes32"],
            lambda sender, _, fault, epoch, subject: Finalize(
                sender=sender, fault=FAULTS[fault], epoch=epoch, subject=subject
            ),
        ),
    )
)
