"""Transactions as the contract's calldata.

Rules of this file: no I/O. What has no such bytes is refused here, by the name under which the pure model refuses it; whatever has
them is the contract's to judge.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from eth_abi.abi import encode

from quiver.errors import SettlementError, UsageError
from quiver.identity.keys import SESSION_SIGNATURE_BYTES
from quiver.ids import ADDRESS_BYTES, DIGEST_BYTES, Address, ChannelId
from quiver.live.chain.artefact import selector
from quiver.settlement.channels import check_batch, leaf_of
from quiver.settlement.epochs import EPOCH_MAX
from quiver.settlement.signed import UINT64_MAX, check_numbers
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
    MultiProof,
    OpenChannel,
    Proof,
    ProveBadHead,
    RequestExit,
    RequestUnbond,
    RotateSession,
    SubmitEpoch,
    TopUp,
    Transaction,
    Withdraw,
)
from quiver.values.receipt import Acknowledgement

# A count has 40 bits, so no path is longer.
LEVELS_MAX = 40
WORD_MAX = (1 << 256) - 1
FAULT_NUMBERS = {Fault.OMISSION: 1, Fault.LEAF: 2, Fault.HEAD: 3}

SIGNATURE = "(bytes32,bytes32,uint256)"
ACK = f"(bytes32,uint64,uint64,bytes32,{SIGNATURE})"
LEAF = "(uint64,bytes32,uint64,uint64,bytes32)"
Fields = tuple[object, ...]


def encode_call(transaction: Transaction) -> bytes:
    """Selector and arguments. `SettlementError` for a value that does not fit them."""
    name, types, values = _call(transaction)
    return selector(f"{name}({','.join(types)})") + encode(types, values)


def _call(transaction: Transaction) -> tuple[str, list[str], list[object]]:
    match transaction:
        case Deposit(amount=amount) | Withdraw(amount=amount):
            _check_amount(amount)
            return ("deposit" if isinstance(transaction, Deposit) else "withdraw"), ["uint256"], [amount]
        case OpenChannel():
            return _open(transaction)
        case TopUp(channel=channel, amount=amount):
            _check_channel(channel)
            _check_amount(amount)
            return "top_up", ["bytes32", "uint256"], [channel, amount]
        case RotateSession(channel=channel, session=session):
            _check_address(session)
            _check_channel(channel)
            return "rotate_session_key", ["bytes32", "address"], [channel, session]
        case RequestExit(channel=channel) | FinishExit(channel=channel):
            _check_channel(channel)
            return ("request_exit" if isinstance(transaction, RequestExit) else "finish_exit"), ["bytes32"], [channel]
        case Claim() | ClaimDirect() | ClaimBatch() | ClaimDirectBatch():
            return _claim(transaction)
        case SubmitEpoch(commitment=commitment):
            if (
                not 0 <= commitment.epoch <= EPOCH_MAX
                or not 0 <= commitment.count <= WORD_MAX
                or len(commitment.root) != DIGEST_BYTES
            ):
                raise SettlementError(
                    "malformed_commitment", "a commitment has an epoch, a 32-byte root and at least one leaf"
                )
            values: list[object] = [commitment.epoch, commitment.root, commitment.count]
            return "submit_epoch", ["uint64", "bytes32", "uint256"], values
        case _:
            return _dispute(transaction)


def _open(transaction: OpenChannel) -> tuple[str, list[str], list[object]]:
    _check_address(transaction.provider)
    _check_address(transaction.session)
    if not 0 <= transaction.nonce <= UINT64_MAX:
        raise SettlementError("nonce_out_of_range", "a channel nonce is an 8-byte unsigned number")
    _check_amount(transaction.amount)
    values: list[object] = [transaction.provider, transaction.session, transaction.amount, transaction.nonce]
    return "open", ["address", "address", "uint256", "uint64"], values


def _claim(transaction: Claim | ClaimDirect | ClaimBatch | ClaimDirectBatch) -> tuple[str, list[str], list[object]]:
    match transaction:
        case Claim(leaf=leaf, proof=proof, acknowledgement=ack):
            if leaf != leaf_of(ack, leaf.epoch):
                raise SettlementError("leaf_mismatch", "leaf and acknowledgement differ in channel, seq, cum or head")
            index, siblings = _proof(proof)
            return "claim", ["uint64", ACK, "uint256", "bytes32[]"], [_epoch(leaf.epoch), _ack(ack), index, siblings]
        case ClaimDirect(acknowledgement=ack):
            return "claim_direct", [ACK], [_ack(ack)]
        case ClaimBatch(epoch=epoch, acknowledgements=acks, proof=many):
            check_batch(acks)
            indices = _check_paths(many.indices, many.siblings)
            return (
                "claim_batch", ["uint64", f"{ACK}[]", "uint256[]", "bytes32[]"],
                [_epoch(epoch), [_ack(ack) for ack in acks], indices, list(many.siblings)],
            )  # fmt: skip
        case ClaimDirectBatch(acknowledgements=acks):
            check_batch(acks)
            return "claim_direct_batch", [f"{ACK}[]"], [[_ack(ack) for ack in acks]]


def _dispute(transaction: Transaction) -> tuple[str, list[str], list[object]]:
    match transaction:
        case Bond(amount=amount, signer=signer):
            _check_address(signer)
            _check_amount(amount)
            return "bond", ["uint256", "address"], [amount, signer]
        case RequestUnbond():
            return "request_unbond", [], []
        case FinishUnbond():
            return "finish_unbond", [], []
        case ChallengeOmission(promise=promise):
            check_numbers(promise.seq, promise.cum, head=promise.head)
            _check_channel(promise.channel)
            return (
                "challenge_omission", ["uint64", "bytes32", "uint64", "uint64", "bytes32", SIGNATURE],
                [_epoch(promise.epoch), promise.channel, promise.cum, promise.seq, promise.head, _signature(promise.signature)],
            )  # fmt: skip
        case AnswerOmission(promised_seq=seq, leaf=leaf, proof=proof):
            check_numbers(seq, head=leaf.head)
            index, siblings = _proof(proof)
            return "answer_omission", ["uint64", LEAF, "uint256", "bytes32[]"], [seq, _leaf(leaf), index, siblings]
        case ChallengeLeaf(leaf=leaf, proof=proof):
            index, siblings = _proof(proof)
            return "challenge_leaf", [LEAF, "uint256", "bytes32[]"], [_leaf(leaf), index, siblings]
        case AnswerLeaf(leaf=leaf, signature=signature):
            return "answer_leaf", [LEAF, SIGNATURE], [_leaf(leaf), _signature(signature)]
        case ProveBadHead(signed=signed):
            commitment = signed.commitment
            check_numbers(commitment.count, head=commitment.root)
            return (
                "prove_bad_head", ["uint64", "bytes32", "uint64", SIGNATURE],
                [_epoch(commitment.epoch), commitment.root, commitment.count, _signature(signed.signature)],
            )  # fmt: skip
        case Finalize(fault=fault, epoch=epoch, subject=subject):
            if len(subject) != DIGEST_BYTES:
                raise SettlementError("unknown_challenge", f"a subject has {DIGEST_BYTES} bytes")
            return "finalize", ["uint256", "uint64", "bytes32"], [FAULT_NUMBERS[fault], _epoch(epoch), subject]
        case _:
            raise UsageError(f"{type(transaction).__name__} is not a transaction of the contract")


def proof_of(transaction: Transaction) -> tuple[int, Proof | MultiProof] | None:
    """Epoch and proof that a transaction carries. The contract takes the leaf count from the root it holds, not from a proof."""
    match transaction:
        case (
            Claim(leaf=leaf, proof=proof)
            | AnswerOmission(leaf=leaf, proof=proof)
            | ChallengeLeaf(leaf=leaf, proof=proof)
        ):
            return leaf.epoch, proof
        case ClaimBatch(epoch=epoch, proof=many):
            return epoch, many
        case _:
            return None


def place_nowhere(transaction: Transaction) -> Transaction:
    """The same with a proof that no tree has room for: the contract refuses it, in its own order of checks."""
    match transaction:
        case Claim(proof=proof) | AnswerOmission(proof=proof) | ChallengeLeaf(proof=proof):
            return msgspec.structs.replace(transaction, proof=msgspec.structs.replace(proof, index=UINT64_MAX))
        case ClaimBatch(proof=many):
            nowhere = msgspec.structs.replace(many, indices=(UINT64_MAX,) * len(many.indices))
            return msgspec.structs.replace(transaction, proof=nowhere)
        case _:
            return transaction


def _epoch(number: int) -> int:
    if not 0 <= number <= EPOCH_MAX:
        raise SettlementError("unknown_epoch", "an epoch is an 8-byte unsigned number")
    return number


def _check_amount(amount: int) -> None:
    if not 0 <= amount <= WORD_MAX:
        raise SettlementError("amount_out_of_range", f"{amount} is no amount of credits")


def _check_address(address: Address) -> None:
    if len(address) != ADDRESS_BYTES:
        raise SettlementError("malformed_address", f"an account has {ADDRESS_BYTES} bytes")


def _check_channel(channel: ChannelId) -> None:
    if len(channel) != DIGEST_BYTES:
        raise SettlementError("unknown_channel", f"a channel id has {DIGEST_BYTES} bytes")


def _ack(ack: Acknowledgement) -> Fields:
    check_numbers(ack.seq, ack.cum, head=ack.head)
    _check_channel(ack.channel)
    return ack.channel, ack.cum, ack.seq, ack.head, _signature(ack.signature)


def _leaf(leaf: Leaf) -> Fields:
    check_numbers(leaf.seq, leaf.cum, head=leaf.head)
    _check_channel(leaf.channel)
    return _epoch(leaf.epoch), leaf.channel, leaf.cum, leaf.seq, leaf.head


def _signature(signature: bytes) -> Fields:
    if len(signature) != SESSION_SIGNATURE_BYTES:
        raise SettlementError("bad_signature", f"a signature has {SESSION_SIGNATURE_BYTES} bytes")
    return signature[:32], signature[32:64], signature[64]


def _proof(proof: Proof) -> tuple[int, list[bytes]]:
    if len(proof.siblings) > LEVELS_MAX:
        raise SettlementError("bad_proof", f"no tree has more than {LEVELS_MAX} levels")
    (index,) = _check_paths((proof.index,), proof.siblings)
    return index, list(proof.siblings)


def _check_paths(indices: Sequence[int], siblings: Sequence[bytes]) -> list[int]:
    if not all(0 <= index <= UINT64_MAX for index in indices) or any(
        len(sibling) != DIGEST_BYTES for sibling in siblings
    ):
        raise SettlementError("bad_proof", f"a place is an 8-byte unsigned number, a sibling has {DIGEST_BYTES} bytes")
    return list(indices)
