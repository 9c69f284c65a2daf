"""The whole flow with the contract's own bytes: a client asks, providers are paid for it, on the embedded chain and on a real node."""

from __future__ import annotations

import asyncio

import openai
import pytest

from quiver.live import keyfile
from quiver.live.chain.opening import open_ledger
from quiver.live.clock import LiveClock
from quiver.live.config import GatewayConfig
from quiver.live.config_file import load
from quiver.live.config_network import load_network
from quiver.live.devnet import MOCK_MODEL, Devnet
from quiver.live.doctor import examine
from quiver.live.finding import Status
from quiver.values.ledger import Claim, ClaimBatch, ClaimDirect, ClaimDirectBatch, Deposit, OpenChannel, SubmitEpoch
from tests.evm.node import Node, need_node
from tests.live.network import events
from tests.live.waiting import until

CLAIMS = (Claim, ClaimBatch, ClaimDirect, ClaimDirectBatch)
PAID_TIMEOUT_S = 60.0


@pytest.fixture
def node():
    need_node()
    with Node() as running:
        yield running


async def watch(network):
    """Events of the network's ledger once a claim has paid, and the providers' balances then."""
    path = network.directory / "network.toml"
    keys = [keyfile.load(network.directory / f"{name}.key") for name in network.providers]
    ledger = await open_ledger(load_network(path), path, keys[0], clock=LiveClock())
    try:
        async with asyncio.timeout(PAID_TIMEOUT_S):
            while not any(isinstance(event.transaction, CLAIMS) for event in ledger.events(0)):
                await asyncio.sleep(0.1)
        return list(ledger.events(0)), [ledger.balance(key.account) for key in keys]
    finally:
        await ledger.close()


def devnet(tmp_path, chain):
    return Devnet(tmp_path / "net", epoch_ms=3000, speed=10.0, chain=chain)


def ask(network):
    with openai.OpenAI(base_url=f"{network.gateway_url}/v1", api_key="none", max_retries=0) as client:
        asked = [{"role": "user", "content": "Why is the sky blue?"}]
        answer = client.chat.completions.create(model=MOCK_MODEL, messages=asked, max_tokens=30)
    assert answer.usage.completion_tokens > 0


def check_paid(network):
    """Exactly what the providers signed for is on their accounts."""
    happened, balances = asyncio.run(watch(network))
    assert {Deposit, OpenChannel, SubmitEpoch} <= {type(event.transaction) for event in happened}
    paid = sum(event.paid for event in happened)
    receipts = [one for name in network.providers for one in events(network, name, "receipt_issued")]
    assert 0 < paid == sum(balances) == sum(receipt["amount"] for receipt in receipts)


def test_on_the_embedded_chain(tmp_path):
    with devnet(tmp_path, "evm") as network:
        ask(network)
        check_paid(network)


def test_on_a_real_node(tmp_path, node):
    with devnet(tmp_path, node.url) as network:
        ask(network)
        check_paid(network)
        findings = asyncio.run(examine_gateway(network))
        assert [one.status for one in findings if one.check == "chain"] == [Status.OK], findings


async def examine_gateway(network):
    path = network.directory / "gateway.toml"
    return await examine(load(path, GatewayConfig), path)


def test_clients_are_served_while_the_chain_is_away_and_providers_are_paid_once_it_is_back(tmp_path):
    need_node()
    state = ("--state", str(tmp_path / "state.json"))
    with Node(*state) as node, devnet(tmp_path, node.url) as network:
        node.process.terminate()
        node.process.wait()
        ask(network)
        until(lambda: "the ledger is behind" in network.log_path("gateway").read_text(), "the gateway's warning")
        with Node(*state, port=int(node.url.rpartition(":")[2])):
            check_paid(network)
            network.check_alive()
