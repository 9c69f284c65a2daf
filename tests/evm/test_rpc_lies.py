"""Nodes that answer, but not with the truth: late, forged, malformed or of another chain. What they may cost, and what goes on."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest
from eth_abi.abi import encode

from quiver.errors import QuiverError, SettlementError, Unavailable
from quiver.live.chain import log_reader
from quiver.live.chain import mirror as mirrors
from quiver.live.chain.answers import Log, read_refusal
from quiver.live.chain.artefact import selector
from quiver.live.chain.calls import encode_call
from quiver.live.chain.envelope import Envelope
from quiver.live.chain.evm import hex_address
from quiver.live.chain.fees import Fees
from quiver.live.chain.logs import ChainLog
from quiver.live.chain.mirror import Mirror
from quiver.live.chain.outbox import OUTBOX, Outbox
from quiver.live.chain.rpc_client import Rpc
from quiver.live.chain.sender import GAP_MAX
from quiver.live.chain.spent import read_spent
from sim.store import MemoryStore
from tests.evm.beds import CHAIN_ID, fund, key_of
from tests.evm.node import Node, need_node
from tests.evm.proxy import Proxy, Refused
from tests.evm.test_rpc_faults import GWEI, NAMES, PAYER, deployed, deposit, nonce_of, opened, pool, run, until

OTHER = hex_address(key_of("provider").account)


@pytest.fixture
def node():
    need_node()
    with Node() as running:
        fund(running, *(key_of(name).account for name in NAMES))
        yield running


@pytest.fixture
def proxy(node):
    with Proxy(node.url) as made:
        yield made


def lost(*_):
    return None


@pytest.mark.parametrize(
    ("method", "lie"),
    [
        ("eth_blockNumber", lost),
        ("eth_blockNumber", lambda *_: "0x" + "f" * 5000),
        ("eth_blockNumber", lambda *_: {"number": 1}),
        ("eth_blockNumber", lambda *_: "-0x1"),
        ("eth_getBlockByNumber", lambda _, block: {"number": block["number"]} if block else None),
        ("eth_getBlockByNumber", lambda *_: "0x1"),
        ("eth_getLogs", lost),
        ("eth_getLogs", lambda _, logs: [{**log, "address": OTHER} for log in logs]),
        ("eth_getLogs", lambda _, logs: [{**log, "blockNumber": "0x7fffffff"} for log in logs]),
        ("eth_getLogs", lambda _, logs: [{**log, "removed": True} for log in logs]),
        ("eth_getLogs", lambda _, logs: [{**log, "data": "0x" + "ff" * 32, "topics": log["topics"][:1]} for log in logs]),
        ("eth_getTransactionByHash", lambda *_: {}),
        ("eth_getTransactionReceipt", lambda *_: {"blockNumber": "0x1"}),
        ("eth_getTransactionReceipt", lambda _, it: it and {**it, "transactionHash": "0x" + 64 * "1"}),
        ("eth_getTransactionReceipt", lambda _, it: it and {**it, "gasUsed": None}),
        ("eth_getTransactionCount", lost),
        ("eth_call", lambda *_: "0x"),
        ("eth_call", lambda *_: "nothing"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_read_end_nothing_and_move_no_money_twice(node, proxy, method, lie):
    async def story():
        async with opened(node, "payer", urls=[proxy.url]) as ((ledger,), _):
            node.rpc("evm_setAutomine", False)
            going = asyncio.ensure_future(ledger.submit(deposit()))
            await until(lambda: pool(node), "the transaction")
            proxy.forged[method] = lie
            node.rpc("evm_mine")
            for _ in range(3):
                try:
                    await ledger._step()
                except QuiverError:
                    pass
            assert ledger.balance(PAYER) in (0, 1000) and not ledger._loop.done()
            proxy.forged.clear()
            await going
            assert (ledger.balance(PAYER), nonce_of(node), len(ledger.events(0))) == (1000, 1, 1)

    run(story)


@pytest.mark.parametrize(
    ("method", "lie"),
    [("eth_getBlockByNumber", lambda *_: {"baseFeePerGas": None}), ("eth_getBlockByNumber", lambda *_: "0x"),
     ("eth_estimateGas", lost), ("eth_getBalance", lambda *_: []), ("eth_getTransactionCount", lambda *_: "0x"),
     ("eth_maxPriorityFeePerGas", lambda *_: "-0x1")],
)  # fmt: skip
def test_a_submission_that_meets_nonsense_is_refused_and_leaves_nothing(node, proxy, method, lie):
    async def story():
        store = MemoryStore()
        async with opened(node, "payer", urls=[proxy.url], stores={"payer": store}) as ((ledger,), _):
            proxy.forged[method] = lie
            with pytest.raises(Unavailable):
                await ledger.submit(deposit())
            assert list(store.scan(OUTBOX)) == []
            proxy.forged.clear()
            await ledger.submit(deposit())
            assert ledger.balance(PAYER) == 1000

    run(story)


def test_the_next_node_is_asked_where_one_talks_nonsense_from_the_start(node, proxy):
    async def story():
        proxy.forged["eth_getLogs"] = lambda *_: Refused(code=-32000, message="missing trie node")
        async with opened(node, "payer", urls=[proxy.url, node.url]) as ((ledger,), _):
            await ledger.submit(deposit())
            assert ledger.balance(PAYER) == 1000

    run(story)


def test_logs_of_a_node_that_has_not_come_to_the_last_block_yet_are_not_taken_for_all(node, proxy):
    async def story():
        async with opened(node, "payer") as ((ledger,), chain):
            await ledger.submit(deposit())
            behind = Rpc([proxy.url], CHAIN_ID)
            # Many nodes behind one address: this one answers the logs, and knows no block of today.
            proxy.forged["eth_getLogs"] = lambda *_: []
            late = int(node.rpc("eth_blockNumber"), 16)
            known = proxy.heard
            proxy.forged["eth_getBlockByNumber"] = lambda asked, block: (
                None if int(asked[0], 16) >= late and known[-2:] == ["eth_getLogs", "eth_getBlockByNumber"] else block
            )
            mirror = Mirror(behind, chain.contract, confirmations=0)
            with pytest.raises(Unavailable, match="does not know block"):
                await mirror.poll()
            assert mirror.state.number == -1
            proxy.forged.clear()
            assert await mirror.poll() and mirror.state.balances[PAYER] == 1000
            await behind.close()

    run(story)


def test_what_was_read_before_a_node_failed_is_not_asked_for_again(node, proxy, monkeypatch):
    monkeypatch.setattr(log_reader, "BLOCKS_MAX", 2)

    async def story():
        async with opened(node, "payer") as ((ledger,), chain):
            for amount in range(1, 7):
                await ledger.submit(deposit(amount))
            rpc = Rpc([proxy.url], CHAIN_ID)
            mirror = Mirror(rpc, chain.contract, confirmations=0, own=[PAYER])
            rounds = 1
            proxy.cut += ["eth_call"] + 3 * ["eth_getTransactionByHash"]
            while True:
                try:
                    assert await mirror.poll()
                    break
                except Unavailable:
                    assert (mirror.state.number, mirror.events) == (-1, [])
                    rounds += 1
            assert rounds == 5
            # Three answers were lost, each for at most the two blocks of a range; everything else was asked for once.
            assert 6 <= proxy.heard.count("eth_getTransactionByHash") <= 6 + 3 * 2
            assert mirror.events == ledger.events(0) and mirror.state.balances[PAYER] == 21
            assert [event.index for event in mirror.events] == list(range(6))
            await rpc.close()

    run(story)


def test_a_branch_that_was_read_halfway_and_then_left_is_forgotten(node, proxy, monkeypatch):
    monkeypatch.setattr(log_reader, "BLOCKS_MAX", 2)

    async def story():
        async with opened(node, "payer") as ((ledger,), chain):
            for amount in (1, 2, 4):
                await ledger.submit(deposit(amount))
            rpc = Rpc([proxy.url], CHAIN_ID)
            mirror = Mirror(rpc, chain.contract, confirmations=0)
            proxy.cut.append("eth_call")
            with pytest.raises(Unavailable):
                await mirror.poll()
            assert mirror._progress.number == int(node.rpc("eth_blockNumber"), 16)
            node.rpc("anvil_reorg", 2, [])
            await until(lambda: nonce_of(node) >= 1, "the other branch")
            assert await mirror.poll()
            assert mirror.state.balances[PAYER] == sum(event.transaction.amount for event in mirror.events) == 1
            assert mirror.reorganisations == 0
            await rpc.close()

    run(story)


def test_a_part_of_a_range_holds_whole_blocks():
    logs = [ChainLog(block=block, transaction=bytes(32), log=Log(topics=(), data=b"")) for block in range(60)] * 5
    logs.sort(key=lambda log: log.block)
    parts = list(log_reader.Range(last=60, hash="", logs=logs).parts())
    assert [log for part in parts for log in part] == logs and [len(part) for part in parts] == [100, 100, 100]
    for before, after in pairwise(parts):
        assert before[-1].block < after[0].block


def test_a_node_that_stands_still_is_left_for_the_next(node, proxy, monkeypatch, caplog):
    monkeypatch.setattr(mirrors, "STILL_S", 0.3)
    caplog.set_level(logging.WARNING)

    async def story():
        async with opened(node, "payer", urls=[proxy.url, node.url]) as ((ledger,), _):
            frozen = node.rpc("eth_blockNumber")
            proxy.forged["eth_blockNumber"] = lambda *_: frozen
            node.send(OTHER, hex_address(ledger.contract), encode_call(deposit(5)), 5 * GWEI)
            await until(lambda: len(ledger.events(0)) == 1, "what the frozen node does not show")
            assert "no new final block for 0.3 s" in caplog.text

    run(story)


def test_an_address_that_leads_to_another_chain_now_is_noticed_before_everything_is_read_again(node, proxy):
    async def story():
        async with opened(node, "payer", urls=[proxy.url]) as ((ledger,), chain):
            await ledger.submit(deposit())
            proxy.forged["eth_chainId"] = lambda *_: "0x7a69ff"
            proxy.forged["eth_getBlockByNumber"] = lambda _, block: block and {**block, "hash": "0x" + 64 * "e"}
            with pytest.raises(QuiverError, match="serves chain"):
                await chain.mirrors[0].poll()
            assert (ledger.balance(PAYER), chain.mirrors[0].reorganisations) == (1000, 0)

    run(story)


def test_a_count_that_only_one_node_tells_costs_no_nonce(node, proxy):
    async def story():
        async with opened(node, "payer", urls=[proxy.url, node.url]) as ((ledger,), _):
            proxy.forged["eth_getTransactionCount"] = lambda *_: hex(10**6)
            going = asyncio.ensure_future(ledger.submit(deposit()))
            await until(lambda: nonce_of(node) == 1, "nonce 0")
            proxy.forged.clear()
            await going
            assert ledger.balance(PAYER) == 1000

    run(story)


def test_no_lie_about_counts_makes_us_fill_more_than_a_few_nonces(node):
    async def story():
        store = MemoryStore()
        outbox = Outbox(store, PAYER, chain_id=CHAIN_ID, sign=key_of("payer").sign_account)
        late = Envelope(nonce=GAP_MAX + 1, to=deployed(node), value=GWEI, calldata=encode_call(deposit(1)), gas=200_000)
        await outbox.add(late, Fees(max_wei=10 * GWEI, priority_wei=GWEI))
        async with opened(node, "payer", stores={"payer": store}) as ((ledger,), _):
            with pytest.raises(Unavailable, match=f"nonces 0 to {GAP_MAX} of .* are used by nobody"):
                await ledger._step()
            assert (len(list(store.scan(OUTBOX))), nonce_of(node), pool(node)) == (1, 0, [])

    run(story)


def test_a_receipt_that_comes_late_is_waited_for_because_a_call_given_up_too_soon_is_made_twice(node, proxy):
    async def story():
        async with opened(node, "payer", urls=[proxy.url]) as ((ledger,), _):
            proxy.forged["eth_getTransactionReceipt"] = lost
            going = asyncio.ensure_future(ledger.submit(deposit()))
            await until(lambda: nonce_of(node) == 1, "the block")
            await asyncio.sleep(0.5)
            assert not going.done()
            proxy.forged.clear()
            await going
            assert (ledger.balance(PAYER), nonce_of(node)) == (1000, 1)

    run(story)


def test_the_receipt_that_one_node_hides_is_seen_at_the_next(node, proxy):
    async def story():
        async with opened(node, "payer", urls=[proxy.url, node.url]) as ((ledger,), _):
            proxy.forged["eth_getTransactionReceipt"] = lost
            await ledger.submit(deposit())
            assert ledger.balance(PAYER) == 1000

    run(story)


def test_a_transaction_that_one_node_keeps_to_itself_goes_to_the_next_once_it_is_stuck(node, proxy):
    async def story():
        async with opened(node, "payer", urls=[proxy.url, node.url], stuck_after_s=0.2) as ((ledger,), _):
            proxy.kept.append("eth_sendRawTransaction")
            await ledger.submit(deposit())
            assert "eth_sendRawTransaction" in proxy.heard
            assert (ledger.balance(PAYER), nonce_of(node)) == (1000, 1)

    run(story)


class Brittle(MemoryStore):
    """Refuses to delete, once."""

    broken = False

    async def commit(self, batch):
        if self.broken and any(value is None for _, _, value in batch):
            self.broken = False
            raise Unavailable("the disk is full")
        await super().commit(batch)


def test_who_waits_is_told_after_a_disk_that_failed_for_a_moment(node):
    async def story():
        store = Brittle()
        async with opened(node, "payer", stores={"payer": store}) as ((ledger,), _):
            store.broken = True
            await ledger.submit(deposit())
            assert not store.broken and ledger.balance(PAYER) == 1000

    run(story)


def test_a_submission_that_is_being_written_while_the_ledger_closes_does_not_wait_for_ever(node, proxy):
    async def story():
        async with opened(node, "payer", urls=[proxy.url]) as ((ledger,), _):
            gate = asyncio.Event()
            write = ledger._sender._write

            async def slow(*call):
                nonce = await write(*call)
                await gate.wait()
                return nonce

            ledger._sender._write = slow
            going = asyncio.ensure_future(ledger.submit(deposit()))
            await until(lambda: ledger._sender.outbox.waiting, "the row")
        gate.set()
        with pytest.raises(Unavailable, match="goes on at the next start"):
            await going

    run(story)


def words(text):
    return selector("Error(string)") + encode(["string"], [text])


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (words("nothing_due"), "nothing_due"),
        (words("ERC20: insufficient allowance"), "reverted"),
        (words("nothing_due\x1b[2J" + "x" * 10_000), "reverted"),
        (words("a")[:40], "reverted"),
        (selector("Error(string)"), "reverted"),
        (selector("Error(string)") + b"\xff" * 96, "reverted"),
        (words("a")[:-32] + b"\xff" * 32, "reverted"),
        (b"\x00" * 100_000, "reverted"),
        (b"", "reverted"),
    ],
)
def test_a_forged_refusal_is_a_refusal_in_one_short_line(output, reason):
    error = read_refusal(output)
    assert isinstance(error, SettlementError) and error.reason == reason
    assert str(error).isprintable() and len(str(error)) < 400


def test_gas_that_no_event_shows_is_written_down(node):
    async def story():
        store = MemoryStore()
        async with opened(node, "payer", stores={"payer": store}) as ((ledger,), _):
            contract = ledger.contract
            await ledger.submit(deposit())
            assert read_spent(store, PAYER, chain_id=CHAIN_ID) == []
            # Nobody may deposit without coin: it is refused when it is tried, so it is not.
            calldata = encode_call(deposit(3))
            fees = Fees(max_wei=10 * GWEI, priority_wei=GWEI)
            await ledger._sender.outbox.add(
                Envelope(nonce=1, to=contract, value=0, calldata=calldata, gas=200_000), fees
            )
            end = ledger._sender._ends.setdefault(1, asyncio.get_running_loop().create_future())
            with pytest.raises(SettlementError):
                await end
            (spent,) = read_spent(store, PAYER, chain_id=CHAIN_ID)
            block = node.rpc("eth_getBlockByNumber", "latest", True)
            receipt = node.rpc("eth_getTransactionReceipt", block["transactions"][0]["hash"])
            assert receipt["status"] == "0x0"
            assert spent.gas_wei == int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16) > 0
            assert spent.at_ms == 1000 * int(block["timestamp"], 16)
            assert read_spent(store, PAYER, chain_id=CHAIN_ID + 1) == []

    run(story)
