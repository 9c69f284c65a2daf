"""What chains and their nodes do to those who rely on them: reorganisations, stuck and reverted transactions, nodes that die."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from quiver.errors import SettlementError, Unavailable
from quiver.identity.signing import ack_domain
from quiver.ids import compute_channel_id
from quiver.live.chain.calls import encode_call
from quiver.live.chain.envelope import Envelope
from quiver.live.chain.evm import hex_address
from quiver.live.chain.fees import Fees
from quiver.live.chain.outbox import OUTBOX, Outbox
from quiver.params import Params
from quiver.values.ledger import ClaimDirect, Deposit, OpenChannel, TopUp
from sim.signer import SimSigner
from sim.store import MemoryStore
from tests.conformance.ledger_suite import Parties
from tests.evm.beds import CHAIN_ID, Chain, deploy_at, fund, key_of
from tests.evm.node import Node, need_node
from tests.evm.proxy import Proxy

PARAMS = Params.minimal()
NAMES = ("payer", "provider")
PAYER = key_of("payer").account
GWEI = 10**9
TIMEOUT_S = 20.0


@pytest.fixture
def node():
    need_node()
    with Node() as running:
        fund(running, *(key_of(name).account for name in NAMES))
        yield running


def run(story):
    async def main():
        async with asyncio.timeout(3 * TIMEOUT_S):
            await story()

    asyncio.run(main())


@contextlib.asynccontextmanager
async def opened(node, *names, urls=None, stores=None, **options):
    chain = Chain(urls or [node.url], deployed(node), PARAMS, **options)
    try:
        yield await chain.open(*names, stores=stores), chain
    finally:
        await chain.close()


def deployed(node):
    """One contract a node."""
    if not hasattr(node, "contract"):
        node.contract = deploy_at(node, PARAMS)
    return node.contract


async def until(find, what):
    async with asyncio.timeout(TIMEOUT_S):
        while not (found := find()):
            await asyncio.sleep(0.02)
        return found


def deposit(amount=1000):
    return Deposit(sender=PAYER, amount=amount)


def pool(node):
    """Hashes of transactions that wait for a block."""
    return [one["hash"] for one in node.rpc("eth_getBlockByNumber", "pending", True)["transactions"]]


def nonce_of(node, account=PAYER):
    return int(node.rpc("eth_getTransactionCount", hex_address(account), "latest"), 16)


def test_nothing_is_final_before_its_confirmations_and_a_reorganisation_below_them_changes_nothing(node):
    async def story():
        async with opened(node, "payer", confirmations=2) as ((ledger,), chain):
            going = asyncio.ensure_future(ledger.submit(deposit()))
            await until(lambda: nonce_of(node) == 1, "the block")
            first = node.rpc("eth_getBlockByNumber", "latest", True)["transactions"]
            node.rpc("evm_mine")
            await asyncio.sleep(0.3)
            assert (ledger.balance(PAYER), ledger.events(0), going.done()) == (0, [], False)
            # The two blocks are replaced by others that do not hold the transaction: it is sent again, the same bytes.
            node.rpc("anvil_reorg", 2, [])
            await until(lambda: nonce_of(node) == 1, "the same transaction in another block")
            again = node.rpc("eth_getBlockByNumber", "latest", True)["transactions"]
            assert [one["hash"] for one in again] == [one["hash"] for one in first]
            for _ in range(2):
                assert not going.done()
                node.rpc("evm_mine")
            assert (await going).hex() == first[0]["hash"][2:]
            assert (ledger.balance(PAYER), len(ledger.events(0))) == (1000, 1)
            assert chain.mirrors[0].reorganisations == 0

    run(story)


def test_a_reorganisation_of_final_blocks_is_reported_and_everything_is_read_again(node, caplog):
    async def story():
        async with opened(node, "payer") as ((ledger,), chain):
            await ledger.submit(deposit())
            await ledger.submit(deposit(500))
            assert ledger.balance(PAYER) == 1500
            with caplog.at_level(logging.ERROR):
                node.rpc("anvil_reorg", 1, [])
                await until(lambda: chain.mirrors[0].reorganisations == 1, "the report")
            assert "took back final blocks" in caplog.text
            assert (ledger.balance(PAYER), len(ledger.events(0))) == (1000, 1)
            # Our second nonce is free again, and later ones would wait for it for ever: it is filled.
            await ledger.submit(deposit(7))
            assert (ledger.balance(PAYER), len(ledger.events(0)), nonce_of(node)) == (1007, 2, 3)

    run(story)


def test_a_stuck_transaction_is_replaced_by_a_dearer_one_and_happens_once(node):
    async def story():
        async with opened(node, "payer", stuck_after_s=0.3) as ((ledger,), _):
            node.rpc("evm_setAutomine", False)
            going = asyncio.ensure_future(ledger.submit(deposit()))
            (cheap,) = await until(lambda: pool(node), "the transaction")
            node.rpc("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
            node.rpc("evm_mine")
            assert nonce_of(node) == 0
            node.rpc("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
            (dear,) = await until(lambda: [one for one in pool(node) if one != cheap], "its replacement")
            node.rpc("evm_mine")
            assert (await going).hex() == dear[2:]
            assert (ledger.balance(PAYER), nonce_of(node)) == (1000, 1)

    run(story)


def test_a_transaction_never_costs_more_than_its_cap(node, caplog):
    async def story():
        chain = Chain([node.url], deployed(node), PARAMS, stuck_after_s=0.2)
        (ledger,) = await chain.open("payer", cap_wei=5 * GWEI)
        node.rpc("evm_setAutomine", False)
        going = asyncio.ensure_future(ledger.submit(deposit()))
        await until(lambda: pool(node), "the transaction")
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                node.rpc("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
                node.rpc("evm_mine")
                await asyncio.sleep(0.3)
        assert "may not cost more" in caplog.text or "gas costs 50 gwei" in caplog.text
        with pytest.raises(Unavailable, match="fee_gwei_max = 5"):
            await ledger.submit(deposit(1))
        assert not going.done()
        # The node has thrown it away meanwhile, so it is sent again.
        node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        await until(lambda: pool(node), "the transaction again")
        node.rpc("evm_mine")
        await going
        receipt = node.rpc("eth_getTransactionReceipt", "0x" + going.result().hex())
        assert int(receipt["effectiveGasPrice"], 16) <= 5 * GWEI
        await chain.close()

    run(story)


def test_a_transaction_that_somebody_else_made_pointless_is_reverted_with_its_reason(node):
    async def story():
        async with opened(node, *NAMES) as ((payer, provider), chain):
            chain.node = lambda name: (chain.ledgers[name], SimSigner(1, name, mode="real"))
            parties = await Parties.meet(chain)
            ack = await parties.acknowledge(150)
            node.rpc("evm_setAutomine", False)
            for ledger in (payer, provider):
                ledger._loop.cancel()
            # Both are tried before either is sent, so both look well.
            ends = []
            for name, ledger in zip(NAMES, (payer, provider), strict=True):
                claim = ClaimDirect(sender=key_of(name).account, acknowledgement=ack)
                ends.append(await ledger._sender.prepare(ledger.contract, encode_call(claim), 0))
            for ledger in (payer, provider):
                await ledger._step()
            assert len(pool(node)) == 2
            node.rpc("evm_mine")
            for ledger in (payer, provider):
                await ledger._step()
            outcomes = await asyncio.gather(*ends, return_exceptions=True)
            refused = [one for one in outcomes if isinstance(one, SettlementError)]
            assert [one.reason for one in refused] == ["nothing_due"] and len(outcomes) == 2
            assert provider.balance(key_of("provider").account) == 150

    run(story)


def test_an_answer_that_is_lost_does_not_send_a_transaction_twice(node):
    async def story():
        with Proxy(node.url) as proxy:
            async with opened(node, "payer", urls=[proxy.url]) as ((ledger,), _):
                proxy.cut += ["eth_sendRawTransaction", "eth_getTransactionReceipt", "eth_getLogs"]
                await ledger.submit(deposit())
                assert proxy.cut == []
                assert (ledger.balance(PAYER), nonce_of(node)) == (1000, 1)
                assert proxy.heard.count("eth_sendRawTransaction") == 1

    run(story)


def test_a_dead_node_is_said_and_the_next_takes_over(node):
    async def story():
        with Proxy(node.url) as first, Proxy(node.url) as second:
            async with opened(node, "payer", urls=[first.url, second.url]) as ((ledger,), _):
                await ledger.submit(deposit(1))
                assert second.heard == []
                first.dead = True
                await ledger.submit(deposit(2))
                assert second.heard and ledger.balance(PAYER) == 3
                second.dead = True
                with pytest.raises(Unavailable, match=f"no node of chain {CHAIN_ID} answers") as caught:
                    await ledger.submit(deposit(4))
                assert caught.value.retry_after_s > 0 and first.url[7:] in str(caught.value)
                assert ledger.balance(PAYER) == 3
                first.dead = False
                await ledger.submit(deposit(4))
                assert ledger.balance(PAYER) == 7

    run(story)


def test_a_node_that_is_killed_and_started_again_finds_everything_as_it_was(tmp_path):
    need_node()
    state = ("--state", str(tmp_path / "state.json"))

    async def story():
        with Node(*state) as node:
            fund(node, PAYER)
            contract = deploy_at(node, PARAMS)
            chain = Chain([node.url], contract, PARAMS)
            (ledger,) = await chain.open("payer")
            await ledger.submit(deposit(1))
            node.process.terminate()
            await asyncio.to_thread(node.process.wait)
        with pytest.raises(Unavailable, match="no node of chain"):
            await ledger.submit(deposit(2))
        with Node(*state, port=int(node.url.rpartition(":")[2])):
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    with contextlib.suppress(Unavailable):
                        await ledger.submit(deposit(2))
                        break
            assert (ledger.balance(PAYER), len(ledger.events(0))) == (3, 2)
            await chain.close()

    run(story)


def test_a_chain_that_was_set_up_again_is_not_believed():
    need_node()

    async def story():
        with Node() as node:
            fund(node, PAYER)
            chain = Chain([node.url], deploy_at(node, PARAMS), PARAMS)
            (ledger,) = await chain.open("payer")
            await ledger.submit(deposit(1))
        with Node(port=int(node.url.rpartition(":")[2])) as fresh:
            fund(fresh, PAYER)
            with pytest.raises(Unavailable, match="has no contract at|no node of chain"):
                await ledger.submit(deposit(2))
            with pytest.raises(Unavailable, match="set up again without the contract"):
                await chain.mirrors[0].poll()
            assert ledger.balance(PAYER) == 1 and nonce_of(fresh) == 0
            await chain.close()

    run(story)


def test_what_was_written_down_before_a_crash_is_sent_after_it_and_asked_again_happens_once(node):
    async def story():
        stores = {"payer": MemoryStore()}
        deployed(node)
        node.rpc("evm_setAutomine", False)
        async with opened(node, "payer", stores=stores) as ((ledger,), _):
            lost = asyncio.ensure_future(ledger.submit(deposit()))
            await until(lambda: pool(node), "the transaction")
        with pytest.raises(Unavailable, match="written down"):
            await lost
        node.rpc("anvil_dropAllTransactions")
        assert pool(node) == []
        async with opened(node, "payer", stores=stores) as ((ledger,), _):
            await until(lambda: pool(node), "the same transaction again")
            # The role does not know what became of it, and asks again.
            going = asyncio.ensure_future(ledger.submit(deposit()))
            another = asyncio.ensure_future(ledger.submit(deposit()))
            await until(lambda: len(pool(node)) == 2, "the second one")
            node.rpc("evm_mine")
            await asyncio.gather(going, another)
            assert (ledger.balance(PAYER), nonce_of(node)) == (2000, 2)
        assert list(stores["payer"].scan(OUTBOX)) == []

    run(story)


def test_a_nonce_lost_with_a_store_is_filled_so_that_later_ones_move(node):
    async def story():
        store = MemoryStore()
        outbox = Outbox(store, PAYER, chain_id=CHAIN_ID, sign=key_of("payer").sign_account)
        fees = Fees(max_wei=10 * GWEI, priority_wei=GWEI)
        calldata = encode_call(deposit())
        late = Envelope(nonce=2, to=deployed(node), value=1000 * GWEI, calldata=calldata, gas=200_000)
        await outbox.add(late, fees)
        async with opened(node, "payer", stores={"payer": store}) as ((ledger,), _):
            await until(lambda: ledger.balance(PAYER) == 1000, "the deposit with nonce 2")
            assert nonce_of(node) == 3

    run(story)


def test_another_program_with_the_same_key_is_noticed(node):
    async def story():
        async with opened(node, "payer", stuck_after_s=0.3) as ((ledger,), _):
            node.rpc("evm_setAutomine", False)
            going = asyncio.ensure_future(ledger.submit(deposit()))
            await until(lambda: pool(node), "the transaction")
            node.rpc("anvil_impersonateAccount", hex_address(PAYER))
            thief = {
                "from": hex_address(PAYER),
                "to": hex_address(PAYER),
                "nonce": "0x0",
                "maxFeePerGas": hex(90 * GWEI),
            }
            node.rpc("eth_sendTransaction", {**thief, "maxPriorityFeePerGas": hex(80 * GWEI)})
            node.rpc("evm_mine")
            with pytest.raises(Unavailable, match="another program used nonce 0"):
                await going
            assert ledger.balance(PAYER) == 0
            node.rpc("evm_setAutomine", True)
            await ledger.submit(deposit())
            assert ledger.balance(PAYER) == 1000

    run(story)


def test_an_account_without_coin_is_told_how_much_it_needs(node):
    async def story():
        async with opened(node, "payer") as ((ledger,), _):
            node.rpc("anvil_setBalance", hex_address(PAYER), hex(10**12))
            with pytest.raises(SettlementError) as caught:
                await ledger.submit(deposit(10))
            assert caught.value.reason == "insufficient_coin"
            with pytest.raises(SettlementError) as caught:
                await ledger.submit(deposit(10**9))
            assert caught.value.reason == "insufficient_coin"
            assert nonce_of(node) == 0

    run(story)


def test_whoever_stops_waiting_leaves_no_nonce_unfilled(node):
    async def story():
        async with opened(node, "payer") as ((ledger,), _):
            for wait_s in (0.0, 0.002, 0.005, 0.01, 0.02):
                going = asyncio.ensure_future(ledger.submit(deposit(1)))
                await asyncio.sleep(wait_s)
                going.cancel()
                await asyncio.gather(going, return_exceptions=True)
            await ledger.submit(deposit(100))
            events = ledger.events(0)
            assert ledger.balance(PAYER) == sum(event.transaction.amount for event in events) >= 100
            assert nonce_of(node) == len(events)

    run(story)


def test_gas_is_told_for_own_transactions_alone(node):
    async def story():
        async with opened(node, "payer") as ((ledger,), _):
            ids = [await ledger.submit(deposit())]
            provider = key_of("provider").account
            opening = OpenChannel(sender=PAYER, provider=provider, session=PAYER, amount=400, nonce=7)
            ids.append(await ledger.submit(opening))
            channel = compute_channel_id(ack_domain(CHAIN_ID, ledger.contract), PAYER, provider, 7)
            ids.append(await ledger.submit(TopUp(sender=PAYER, channel=channel, amount=1)))
            stranger = Deposit(sender=provider, amount=1)
            node.send(hex_address(provider), hex_address(ledger.contract), encode_call(stranger), GWEI)
            await until(lambda: len(ledger.events(0)) == 4, "the stranger's deposit")
            receipts = [node.rpc("eth_getTransactionReceipt", "0x" + one.hex()) for one in ids]
            costs = [int(one["gasUsed"], 16) * int(one["effectiveGasPrice"], 16) for one in receipts]
            assert [event.gas_wei for event in ledger.events(0)] == [*costs, 0] and min(costs) > 0
            assert ledger.events(0)[3].transaction == stranger

    run(story)
