"""A process that is killed at any await of a deposit, started again, and asked for the same again: it buys once, with coin and with tokens."""

from __future__ import annotations

import asyncio

import pytest
from eth_abi.abi import encode

from quiver.live.chain.artefact import selector
from quiver.live.chain.evm import hex_address
from quiver.live.chain.outbox import OUTBOX
from quiver.params import Params
from quiver.values.ledger import Deposit
from sim.store import MemoryStore
from tests.evm.beds import Chain, deploy_at, fund, key_of
from tests.evm.node import Node, need_node
from tests.evm.test_token_ledger import deploy_token, tokens_of

PARAMS = Params.minimal()
PAYER = key_of("payer").account
AMOUNT, UNIT = 1000, 7
BLOCK_S = 0.01
POLL_S = 0.01
TIMEOUT_S = 20.0


class Crash:
    """Stands still for ever at the `at`-th thing that is waited for, before or after it was done: so does a process that was killed."""

    def __init__(self, at, *, after):
        self.at, self.after, self.count, self.reached = at, after, 0, asyncio.Event()

    def around(self, work):
        async def waited(*given, **named):
            self.count += 1
            is_here = self.count == self.at
            if is_here and not self.after:
                await self.stand()
            done = await work(*given, **named)
            if is_here:
                await self.stand()
            return done

        return waited

    async def stand(self):
        self.reached.set()
        await asyncio.Event().wait()


async def mine(node):
    """Blocks come whatever becomes of us."""
    while True:
        node.rpc("evm_mine")
        await asyncio.sleep(BLOCK_S)


async def deposit_and_crash(node, contract, store, *, at, after, confirmations, keep):
    """Credits before, and whether the crash came before the deposit was through."""
    chain = Chain([node.url], contract, PARAMS, confirmations=confirmations, poll_s=POLL_S)
    (ledger,) = await chain.open("payer", stores={"payer": store})
    had = ledger.balance(PAYER)
    crash, rpc, commit = Crash(at, after=after), chain.mirrors[0].rpc, store.commit
    rpc._exchange, store.commit = crash.around(rpc._exchange), crash.around(store.commit)
    going = asyncio.ensure_future(ledger.submit(Deposit(sender=PAYER, amount=AMOUNT)))
    stop = asyncio.ensure_future(crash.reached.wait())
    await asyncio.wait((going, stop), return_when=asyncio.FIRST_COMPLETED)
    has_crashed = crash.reached.is_set()
    dead = [task for task in asyncio.all_tasks() if task not in keep]
    for task in dead:
        task.cancel()
    await asyncio.gather(*dead, return_exceptions=True)
    await rpc.close()
    # The killed one's sockets close a turn later.
    await asyncio.sleep(BLOCK_S)
    store.commit = commit
    return had, has_crashed


async def try_all(node, contract, *, after, confirmations, check):
    """Crash one await later each time, until there is none left; how many there were."""
    miner = asyncio.ensure_future(mine(node))
    keep = (miner, asyncio.current_task())
    at, bought, has_crashed = 0, 0, True
    while has_crashed:
        at += 1
        store = MemoryStore()
        had, has_crashed = await deposit_and_crash(
            node, contract, store, at=at, after=after, confirmations=confirmations, keep=keep
        )
        chain = Chain([node.url], contract, PARAMS, confirmations=confirmations, poll_s=POLL_S)
        (ledger,) = await chain.open("payer", stores={"payer": store})
        # What a role does at its start: it asks for what is not there.
        if ledger.balance(PAYER) == had:
            await ledger.submit(Deposit(sender=PAYER, amount=AMOUNT))
        async with asyncio.timeout(TIMEOUT_S):
            while ledger._sender.outbox.waiting or ledger.balance(PAYER) == had:
                await asyncio.sleep(0.01)
        await asyncio.sleep(2 * confirmations * BLOCK_S)
        bought += AMOUNT
        assert ledger.balance(PAYER) == bought, f"crash at {at}"
        assert list(store.scan(OUTBOX)) == []
        check(bought)
        await chain.close()
    miner.cancel()
    await asyncio.gather(miner, return_exceptions=True)
    return at


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_await_buys_once_with_coin(after):
    need_node()
    with Node() as node:
        fund(node, PAYER)
        contract = deploy_at(node, PARAMS)

        def check(bought):
            held = int(node.rpc("eth_getBalance", hex_address(contract), "latest"), 16)
            assert held == bought * 10**9

        # Trying it, writing it down, sending it, reading it back, striking it out.
        assert asyncio.run(try_all(node, contract, after=after, confirmations=0, check=check)) > 12


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_await_buys_once_with_tokens_and_leaves_no_allowance(after):
    need_node()
    with Node() as node:
        fund(node, PAYER)
        token = deploy_token(node, amount=10**9)
        gift = selector("transfer(address,uint256)") + encode(["address", "uint256"], [PAYER, 10**8])
        node.send(node.rpc("eth_accounts")[0], hex_address(token), gift)
        contract = deploy_at(node, PARAMS, token=token, unit=UNIT)

        def check(bought):
            assert tokens_of(node, token, contract) == bought * UNIT
            asked = selector("allowance(address,address)") + encode(["address"] * 2, [PAYER, contract])
            told = node.rpc("eth_call", {"to": hex_address(token), "data": "0x" + asked.hex()}, "latest")
            assert int(told, 16) == 0

        assert asyncio.run(try_all(node, contract, after=after, confirmations=3, check=check)) > 24
