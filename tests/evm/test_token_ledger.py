"""Credits bought with an ERC-20 token on a real node: somebody else's token, Uniswap's test one."""

from __future__ import annotations

import asyncio
import json

import pytest
from eth_abi.abi import encode

from quiver.errors import SettlementError
from quiver.ids import Address
from quiver.live.chain.artefact import selector
from quiver.live.chain.evm import hex_address
from quiver.params import Params
from quiver.values.ledger import Deposit, Withdraw
from tests.evm.beds import Chain, deploy_at, fund, key_of
from tests.evm.node import MODULES, Node, need_node

PARAMS = Params.minimal()
UNIT = 1000
PAYER = key_of("payer").account


def deploy_token(node, *, amount):
    """All of it belongs to the node's first account."""
    built = json.loads((MODULES / "@uniswap" / "merkle-distributor" / "build" / "TestERC20.json").read_text())
    code = bytes.fromhex(built["bytecode"].removeprefix("0x"))
    code += encode(["string", "string", "uint256"], ["Test", "T", amount])
    receipt = node.send(node.rpc("eth_accounts")[0], None, code)
    return Address(bytes.fromhex(receipt["contractAddress"][2:]))


def tokens_of(node, token, account):
    data = selector("balanceOf(address)") + encode(["address"], [account])
    return int(node.rpc("eth_call", {"to": hex_address(token), "data": "0x" + data.hex()}, "latest"), 16)


def test_a_deposit_takes_exactly_its_price_in_tokens_and_a_withdrawal_gives_it_back():
    need_node()

    async def story(node, token):
        chain = Chain([node.url], deploy_at(node, PARAMS, token=token, unit=UNIT), PARAMS)
        (ledger,) = await chain.open("payer")
        # Two at once: neither may spend the other's allowance.
        await asyncio.gather(*(ledger.submit(Deposit(sender=PAYER, amount=amount)) for amount in (40, 2)))
        assert (ledger.balance(PAYER), tokens_of(node, token, ledger.contract)) == (42, 42 * UNIT)
        await ledger.submit(Withdraw(sender=PAYER, amount=12))
        assert (ledger.balance(PAYER), tokens_of(node, token, PAYER)) == (30, 20 * UNIT)
        with pytest.raises(SettlementError):
            await ledger.submit(Deposit(sender=PAYER, amount=21))
        assert (ledger.balance(PAYER), tokens_of(node, token, PAYER)) == (30, 20 * UNIT)
        await chain.close()

    with Node() as node:
        fund(node, PAYER)
        token = deploy_token(node, amount=10**9)
        gift = selector("transfer(address,uint256)") + encode(["address", "uint256"], [PAYER, 50 * UNIT])
        node.send(node.rpc("eth_accounts")[0], hex_address(token), gift)
        asyncio.run(story(node, token))
