"""A development node, such as anvil, that holds the keys of rich accounts: it pays for a devnet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from quiver.errors import Unavailable, UsageError
from quiver.ids import Address
from quiver.live.chain.artefact import UNIT_DEFAULT, deployment, load_artefact
from quiver.live.chain.rpc_client import Rpc, RpcError, quantity
from quiver.live.config_network import Chain
from quiver.params import Params
from quiver.settlement.terms import Terms

# Of the node's coin, for gas and deposits of one account.
FUNDS_WEI = 10 * 10**18
POLL_S = 0.1
MINED_S = 30.0
# A new block should be there long before a request ends.
DEVNET_POLL_S = 0.2

T = TypeVar("T")


class DevNode:
    """Plain calls that wait, for a program without an event loop."""

    def __init__(self, url: str) -> None:
        self._url = url

    def deploy(self, aggregator: Address, params: Params) -> Chain:
        """The contract with these terms, as `[chain]` of a network."""
        code = deployment(
            bytes.fromhex(load_artefact().bytecode[2:]), aggregator=aggregator, terms=Terms.from_params(params),
            unit=UNIT_DEFAULT,
        )  # fmt: skip

        async def make(rpc: Rpc) -> Chain:
            receipt = await _send(rpc, {"data": "0x" + code.hex()})
            return Chain(
                kind="rpc", id=rpc.chain_id, contract=receipt["contractAddress"], rpc=(self._url,), confirmations=0,
                from_block=quantity(receipt["blockNumber"]), poll_s=DEVNET_POLL_S,
            )  # fmt: skip

        return self._run(make)

    def fund(self, accounts: Iterable[Address]) -> None:
        """Coin for gas and deposits."""

        async def give(rpc: Rpc) -> None:
            for account in accounts:
                await _send(rpc, {"to": "0x" + account.hex(), "value": hex(FUNDS_WEI)})

        self._run(give)

    def _run(self, work: Callable[[Rpc], Coroutine[Any, Any, T]]) -> T:
        async def main() -> T:
            rpc = await Rpc.discover(self._url)
            try:
                return await work(rpc)
            except RpcError as error:
                raise UsageError(f"the node at {rpc.host} refuses: {error.message}") from error
            finally:
                await rpc.close()

        return asyncio.run(main())


async def _send(rpc: Rpc, transaction: dict[str, str]) -> dict[str, Any]:
    """Receipt of a transaction of the node's first account."""
    accounts = await rpc.call("eth_accounts")
    if not accounts:
        raise UsageError("the node holds no account: a devnet needs a development node, such as anvil")
    sent = await rpc.call("eth_sendTransaction", {"from": accounts[0], **transaction})
    try:
        async with asyncio.timeout(MINED_S):
            while (receipt := await rpc.call("eth_getTransactionReceipt", sent)) is None:
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise Unavailable(
            f"{rpc.host} put {sent} into no block within {MINED_S:g} s: does it mine? Start it without --no-mining"
        ) from error
    if receipt["status"] != "0x1":
        raise Unavailable(f"the node reverted {sent}")
    return dict(receipt)
