"""What the contract says: views, events and refusals, read back into our values.

Rules of this file: no I/O; the inverse side of `calls`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from quiver.errors import SettlementError
from quiver.ids import Address, ChannelId
from quiver.live.chain.artefact import keccak256, selector
from quiver.live.chain.calls import FAULT_NUMBERS
from quiver.settlement.accounts import NOBODY
from quiver.values.ledger import (
    BondState,
    ChallengeState,
    ChannelState,
    Commitment,
    EpochState,
    Fault,
    Verdict,
)

# Solidity's Error(string), which Vyper's assertions use too.
_ERROR = selector("Error(string)")
_CODE = re.compile("[a-z0-9_]{1,40}")
REVERT_BYTES_SHOWN = 128
_VERDICTS = {1: Verdict.OPEN, 2: Verdict.ANSWERED, 3: Verdict.SLASHED}
FAULTS = {number: fault for fault, number in FAULT_NUMBERS.items()}


def _topic(signature: str) -> bytes:
    return keccak256(signature.encode())


PAID = _topic("Paid(bytes32,address,uint256)")
EXIT_FINISHED = _topic("ExitFinished(bytes32,uint256)")
UNBONDED = _topic("Unbonded(address,uint256)")
ANSWERED = _topic("Answered(uint256,uint64,bytes32,address)")
SLASHED = _topic("Slashed(uint256,uint64,bytes32,address,uint256,uint256)")


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the contract as a chain stores it."""

    topics: tuple[bytes, ...]
    data: bytes


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """Credits that one transaction moved, from its logs."""

    paid: int = 0
    refunded: int = 0
    slashed: int = 0


def read_logs(logs: Iterable[Log], *, stake: int) -> Moved:
    """Sums over a transaction's events; `stake` is what an answered or finalized challenge had at stake."""
    paid = refunded = slashed = 0
    for log in logs:
        kind = log.topics[0]
        if kind == PAID:
            paid += int.from_bytes(log.data, "big")
        elif kind in (EXIT_FINISHED, UNBONDED):
            refunded += int.from_bytes(log.data, "big")
        elif kind == ANSWERED:
            paid += stake
        elif kind == SLASHED:
            _, amount, reward = decode(["address", "uint256", "uint256"], log.data)
            slashed, paid = slashed + amount, paid + reward
            if FAULTS[int.from_bytes(log.topics[1], "big")] is not Fault.HEAD:
                refunded += stake
    return Moved(paid=paid, refunded=refunded, slashed=slashed)


def read_refusal(output: bytes) -> SettlementError:
    """The reason inside a revert; `reverted` where it carries none."""
    reason = _reason(output)
    if reason is None:
        return SettlementError(
            "reverted", f"the contract refused without a reason: 0x{output[:REVERT_BYTES_SHOWN].hex()}"
        )
    # Tokens have words of their own, and a node may say anything.
    code = reason if _CODE.fullmatch(reason) else "reverted"
    shown = "".join(one if one.isprintable() else " " for one in reason[:REVERT_BYTES_SHOWN])
    return SettlementError(code, f"the contract refused: {shown}")


def _reason(output: bytes) -> str | None:
    if output[:4] != _ERROR:
        return None
    try:
        (reason,) = decode(["string"], output[4:])
    except (DecodingError, UnicodeDecodeError, OverflowError):
        return None
    return str(reason)


def read_channel(channel_id: ChannelId, output: bytes) -> ChannelState | None:
    """Of the view `channel`."""
    types = ["address"] * 3 + ["uint256"] * 3 + ["bool", "address", "uint256"]
    payer, provider, session, locked, paid, exit_at_ms, closed, following, rotates_at_ms = decode(types, output)
    if address_of(payer) == NOBODY:
        return None
    return ChannelState(
        channel=channel_id, payer=address_of(payer), provider=address_of(provider), session=address_of(session),
        locked=locked, paid=paid, exit_at_ms=exit_at_ms or None, closed=closed,
        next_session=address_of(following) if rotates_at_ms else None, rotates_at_ms=rotates_at_ms or None,
    )  # fmt: skip


def read_epoch(number: int, output: bytes) -> EpochState | None:
    """Of the view `epoch`."""
    root, poster, count, submitted_ms = decode(["bytes32", "address", "uint256", "uint256"], output)
    if count == 0:
        return None
    commitment = Commitment(epoch=number, root=root, count=count)
    return EpochState(commitment=commitment, submitted_ms=submitted_ms, poster=address_of(poster))


def read_bond(account: Address, output: bytes) -> BondState | None:
    """Of the view `bond_of`."""
    signer, amount, challenges, unbond_at_ms = decode(["address"] + ["uint256"] * 3, output)
    if address_of(signer) == NOBODY:
        return None
    return BondState(
        account=account,
        signer=address_of(signer),
        amount=amount,
        challenges=challenges,
        unbond_at_ms=unbond_at_ms or None,
    )


def read_challenge(fault: Fault, epoch: int, subject: bytes, output: bytes) -> ChallengeState | None:
    """Of the view `challenge`."""
    challenger, respond_by_ms, verdict = decode(["address", "uint256", "uint256"], output)
    if verdict == 0:
        return None
    return ChallengeState(
        fault=fault, epoch=epoch, subject=subject, challenger=address_of(challenger), respond_by_ms=respond_by_ms,
        verdict=_VERDICTS[verdict],
    )  # fmt: skip


def address_of(text: str) -> Address:
    """20 bytes of an address as decoders give it."""
    return Address(bytes.fromhex(text[2:]))
