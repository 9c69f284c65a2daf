"""`chain deploy` and `chain status` against anvil, as an operator uses them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

import msgspec
import pytest

from quiver.errors import UsageError
from quiver.live import keyfile
from quiver.live.chain.deploy import deploy_contract
from quiver.live.chain.evm import hex_address
from quiver.live.chain.rpc_client import Rpc
from quiver.live.chain.sender import Sender
from quiver.live.config_network import Chain, load_network
from quiver.live.init import init_network, render_network
from quiver.params import Params
from sim.store import MemoryStore
from tests.evm.beds import CAP_WEI, fund
from tests.evm.compiled import HOUSE
from tests.evm.node import Node, need_node
from tests.evm.proxy import Proxy


@pytest.fixture(scope="module")
def node():
    need_node()
    with Node("--chain-id", "4242") as running:
        yield running


@pytest.fixture
def directory(tmp_path):
    init_network(
        tmp_path, name="n", host="127.0.0.1", bootstrap_port=4001, aggregator_port=4002, params=Params.minimal()
    )
    return tmp_path


def command(directory, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "quiver.live", "chain", *arguments, "--network", str(directory / "network.toml")],
        capture_output=True, text=True, timeout=60, cwd=HOUSE,
    )  # fmt: skip


def deploy(directory, node, *more):
    key = directory / "aggregator.key"
    return command(directory, "deploy", "--rpc", node.url, "--key", str(key), "--confirmations", "0", *more)


def test_a_deployment_that_is_paid_for_is_seen_through_while_the_node_is_away_and_back(directory, node):
    keypair = keyfile.load(directory / "aggregator.key")
    fund(node, keypair.account)

    async def story():
        with Proxy(node.url) as proxy:
            rpc = Rpc([proxy.url], 4242)
            sender = Sender(
                rpc, MemoryStore(), keypair.account, keypair.sign_account, cap_wei=CAP_WEI, stuck_after_s=60.0,
                now=time.monotonic,
            )  # fmt: skip
            proxy.cut += ["eth_sendRawTransaction", "eth_getTransactionReceipt"]
            made = await deploy_contract(sender, aggregator=keypair.account, params=Params.minimal())
            await rpc.close()
            return made.contract, proxy.cut

    contract, left = asyncio.run(story())
    assert left == [] and node.rpc("eth_getCode", hex_address(contract), "latest") != "0x"
    assert int(node.rpc("eth_getTransactionCount", hex_address(keypair.account), "latest"), 16) == 1


def test_a_deployed_contract_is_in_the_new_network_file_and_shows_its_state(directory, node):
    account = keyfile.load(directory / "aggregator.key").account
    fund(node, account)
    out = directory / "on-chain.toml"
    done = deploy(directory, node, "--out", str(out))
    assert done.returncode == 0, done.stderr
    chain, before = load_network(out).chain, load_network(directory / "network.toml")
    assert (chain.kind, chain.id, chain.rpc) == ("rpc", 4242, (node.url,)) and chain.contract in done.stdout
    assert f"being deployed: {chain.contract}" in done.stderr
    assert node.rpc("eth_getCode", chain.contract, "latest") != "0x"
    assert load_network(out).compute_hash() != before.compute_hash()
    (directory / "network.toml").unlink()
    out.rename(directory / "network.toml")
    shown = command(directory, "status", "--key", str(directory / "aggregator.key"), "--json")
    told = json.loads(shown.stdout)
    assert (told["chain"], told["contract"], told["account"]) == (4242, chain.contract, "0x" + account.hex())
    assert (told["transactions"], told["free_credits"], told["transactions_waiting"]) == (0, 0, 0)
    assert told["final_block"] == told["block"] and 0 < told["coin_wei"] < 10**20


def test_a_deployment_says_what_it_cost(directory, node):
    account = keyfile.load(directory / "aggregator.key").account

    def coin_wei():
        return int(node.rpc("eth_getBalance", hex_address(account), "latest"), 16)

    fund(node, account)
    held = coin_wei()
    done = deploy(directory, node, "--json")
    told = json.loads(done.stdout)
    assert told["gas_wei"] == held - coin_wei() > 0, done.stderr
    receipt = node.rpc("eth_getTransactionReceipt", told["transaction"])
    assert (int(receipt["gasUsed"], 16), receipt["contractAddress"]) == (told["gas"], told["contract"])
    assert told["from_block"] <= int(receipt["blockNumber"], 16) and told["chain"] == 4242
    held = coin_wei()
    # As text it is a comment above the [chain], so that both can go into a network file.
    first, *lines = deploy(directory, node).stdout.splitlines()
    assert first.startswith("# transaction 0x") and first.endswith(f" gas, {held - coin_wei()} wei")
    assert lines[0] == "[chain]"
    held = coin_wei()
    done = deploy(directory, node, "--out", str(directory / "on-chain.toml"))
    assert done.stdout.splitlines()[1].endswith(f" gas, {held - coin_wei()} wei")


def test_an_account_without_coin_and_a_file_that_is_there_are_told_before_anything_is_sent(directory, node):
    blocks = node.rpc("eth_blockNumber")
    poor = deploy(directory, node)
    assert poor.returncode == 1 and "has 0 wei on chain 4242" in poor.stderr and len(poor.stderr.splitlines()) == 1
    there = deploy(directory, node, "--out", str(directory / "network.toml"))
    assert there.returncode == 2 and "already there" in there.stderr
    assert node.rpc("eth_blockNumber") == blocks


def test_the_doctor_names_a_poster_without_coin_for_gas(directory, node):
    payer = keyfile.create(directory / "payer.key").account
    fund(node, payer)
    done = command(
        directory, "deploy", "--rpc", node.url, "--key", str(directory / "payer.key"), "--confirmations", "0", "--out",
        str(directory / "on-chain.toml"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (directory / "network.toml").unlink()
    (directory / "on-chain.toml").rename(directory / "network.toml")

    def look():
        path = str(directory / "aggregator.toml")
        told = subprocess.run(
            [sys.executable, "-m", "quiver.live", "doctor", "--config", path, "--json"], capture_output=True, text=True,
            timeout=60, cwd=HOUSE,
        )  # fmt: skip
        return {one["check"]: one for one in json.loads(told.stdout)}

    account = keyfile.load(directory / "aggregator.key").account
    gas = look()["gas"]
    assert gas["status"] == "fail" and f"account 0x{account.hex()} has 0 wei" in gas["detail"]
    assert gas["fix"] == "send it coin: without gas no root, bond or answer goes out"
    fund(node, account)
    found = look()
    assert (found["gas"]["status"], found["poster"]["status"]) == ("ok", "ok")


def test_a_network_file_with_an_rpc_chain_is_read_as_it_was_written(directory):
    network = load_network(directory / "network.toml")
    chain = Chain(
        kind="rpc", id=5, contract="0x" + "ab" * 20, rpc=("https://a.example/key", "http://127.0.0.1:1"),
        confirmations=3, from_block=77, token="0x" + "cd" * 20, poll_s=0.5, opening_cost_credits=9,
    )  # fmt: skip
    (directory / "other.toml").write_text(render_network(msgspec.structs.replace(network, chain=chain)))
    read = load_network(directory / "other.toml")
    assert read.chain == chain
    # The way to a chain may change without making another network; the chain may not.
    moved = msgspec.structs.replace(read, chain=msgspec.structs.replace(chain, rpc=(), confirmations=9, poll_s=1.0))
    assert moved.compute_hash() == read.compute_hash()
    other = msgspec.structs.replace(read, chain=msgspec.structs.replace(chain, id=6))
    assert other.compute_hash() != read.compute_hash()


def test_a_kind_that_nobody_knows_is_refused(directory):
    text = (directory / "network.toml").read_text().replace('kind = "local"', 'kind = "solana"')
    (directory / "bad.toml").write_text(text)
    with pytest.raises(UsageError, match="solana"):
        load_network(directory / "bad.toml")
