"""A call tried at a node before it costs anything: what it would be refused for, and how much gas it takes."""

from __future__ import annotations

from quiver.errors import SettlementError, Unavailable
from quiver.ids import Address
from quiver.live.chain.answers import read_refusal
from quiver.live.chain.fees import GWEI, Market
from quiver.live.chain.rpc_client import Request, Rpc, RpcError, quantity

# Storage that another transaction of the block before ours warms or clears may change the bill.
_GAS_MARGIN_PERCENT = 125


def describe(sender: Address, to: Address | None, calldata: bytes, value: int) -> dict[str, str]:
    """Of a call, as nodes want it."""
    asked = {"from": "0x" + sender.hex(), "data": "0x" + calldata.hex(), "value": hex(value)}
    return asked if to is None else {**asked, "to": "0x" + to.hex()}


async def estimate_gas(rpc: Rpc, asked: dict[str, str]) -> int:
    """Gas with a margin, on top of what is pending; `SettlementError` by the contract's own reason if it would be refused."""
    requests: list[Request] = [("eth_call", (asked, "pending")), ("eth_estimateGas", (asked, "pending"))]
    if "to" in asked:
        requests.append(("eth_getCode", (asked["to"], "latest")))
    outcome, gas, *code = await rpc.batch(requests)
    if code == ["0x"]:
        # A call to nobody succeeds, and coin sent along is gone.
        raise Unavailable(
            f"chain {rpc.chain_id} has no contract at {asked['to']}: was it set up again?", retry_after_s=10.0
        )
    for answer in (outcome, gas):
        if isinstance(answer, RpcError):
            raise explain(answer)
    return quantity(gas) * _GAS_MARGIN_PERCENT // 100


async def find_reason(rpc: Rpc, asked: dict[str, str], block: int) -> SettlementError:
    """Why a transaction of `block` was reverted."""
    for number in (block, block - 1):
        (answer,) = await rpc.batch([("eth_call", (asked, hex(number)))])
        if isinstance(answer, RpcError) and answer.is_revert:
            return read_refusal(answer.data or b"")
    return SettlementError("reverted", "the chain reverted the transaction, perhaps for want of gas")


def explain(error: RpcError) -> SettlementError | Unavailable:
    """A node's refusal of a call."""
    if error.is_revert:
        return read_refusal(error.data or b"")
    if "insufficient funds" in error.message.lower():
        return SettlementError("insufficient_coin", f"the account has too little of the chain's coin: {error.message}")
    return error


async def read_market(rpc: Rpc) -> Market:
    """Base fee and usual tip; a chain without EIP-1559 is not supported."""
    block, tip = await rpc.batch([("eth_getBlockByNumber", ("latest", False)), ("eth_maxPriorityFeePerGas", ())])
    if isinstance(block, RpcError) or block is None or block.get("baseFeePerGas") is None:
        raise Unavailable("the node names no base fee: the chain must know EIP-1559", retry_after_s=60.0)
    return Market(
        base_wei=quantity(block["baseFeePerGas"]), priority_wei=GWEI if isinstance(tip, RpcError) else quantity(tip)
    )
