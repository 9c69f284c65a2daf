"""`credit pay` where credits are the contract's own: on the engine in each node, which is the devnet's default, and on a real node."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from contextlib import ExitStack

import httpx
import pytest

from quiver.live import keyfile
from quiver.live.devnet import Devnet, make_environment
from tests.evm.beds import fund
from tests.evm.node import Node, need_node
from tests.live.waiting import until

SELLING = f"""
[[http.keys]]
name = "alice"
sha256 = "{hashlib.sha256(b"secret").hexdigest()}"

[selling]
margin = 0.25
prepay_min_credits = 1000
[selling.ceiling]
prompt = 100000
completion = 300000
"""


class Customer:
    """A client with a chain account of its own, which at the node has coin for gas and credits."""

    def __init__(self, devnet):
        self.devnet = devnet
        self.account = keyfile.create(devnet.directory / "customer.key").account

    def run(self, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", "quiver.live", *arguments], cwd=self.devnet.directory, capture_output=True, text=True,
            env=make_environment() | {"QUIVER_API_KEY": "secret"}, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pay(self, amount):
        return self.run(
            "credit", "pay", "--network", "network.toml", "--key", "customer.key", "--gateway", self.devnet.gateway_url,
            "--json", str(amount),
        )  # fmt: skip

    def balance(self):
        headers = {"Authorization": "Bearer secret"}
        return httpx.get(f"{self.devnet.gateway_url}/credit", headers=headers).json()["balance"]


@pytest.fixture(params=["evm", "rpc"])
def customer(request, tmp_path):
    with ExitStack() as stack:
        node = None
        if request.param == "rpc":
            need_node()
            node = stack.enter_context(Node())
        network = stack.enter_context(Devnet(tmp_path, providers=1, chain="evm" if node is None else node.url))
        network.kill("gateway")
        with open(network.directory / "gateway.toml", "a") as file:
            file.write(SELLING)
        network.restart("gateway")
        network.wait_for_providers(1)
        made = Customer(network)
        if node is not None:
            fund(node, made.account)
        yield made


def test_a_client_pays_in_by_channel_again_and_after_its_gateway_died(customer):
    devnet = customer.devnet
    gateway = keyfile.load(devnet.directory / "gateway.key").account
    # Opens the channel, tops it up, and tops it up once more.
    for amount, balance in ((5_000, 5_000), (7_000, 12_000), (1_000, 13_000)):
        assert customer.pay(amount)["given"] == amount
        assert customer.balance() == balance
    told = customer.run(
        "chain", "status", "--network", "network.toml", "--key", "gateway.key", "--json"
    )  # fmt: skip
    assert told["account"] == "0x" + gateway.hex()
    held = told["free_credits"]
    devnet.kill("gateway")
    devnet.restart("gateway")
    devnet.wait_for_providers(1)
    assert customer.balance() == 13_000
    assert customer.pay(2_000)["given"] == 2_000
    assert customer.balance() == 15_000

    def paid():
        told = customer.run("chain", "status", "--network", "network.toml", "--key", "gateway.key", "--json")
        return told["free_credits"] - held

    # What the client was given is what the contract paid the gateway.
    assert until(paid, "the claim on the chain") == 2_000
    mine = customer.run("chain", "status", "--network", "network.toml", "--key", "customer.key", "--json")
    assert mine["free_credits"] == 0
