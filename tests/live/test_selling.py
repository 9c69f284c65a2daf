"""A gateway that sells, as its clients and its operator see it; it dies by kill -9 in the middle of an answer."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import httpx
import openai
import pytest

from quiver.live import keyfile
from quiver.live.devnet import MOCK_MODEL, Devnet, make_environment
from quiver.live.devnet_ports import free_ports
from tests.live.network import inject
from tests.live.waiting import until

PROMPT = [{"role": "user", "content": "hello"}]
# "user" and "hello" are 9 bytes and a message: 7 tokens, so at most 2 x 7 + 64, and 8 and 2 of the answer.
MOST = 78 * 3 + 10 * 20
SELLING = f"""
[[http.keys]]
name = "alice"
sha256 = "{hashlib.sha256(b"secret").hexdigest()}"

[[http.keys]]
name = "operator"
sha256 = "{hashlib.sha256(b"own").hexdigest()}"
free = true

[selling]
admin_port = %d
prepay_min_credits = 1000
[selling.prices."{MOCK_MODEL}"]
prompt = 3_000_000
completion = 20_000_000
"""


class Operator:
    """The commands of a gateway's operator, in processes of their own."""

    def __init__(self, devnet):
        self.devnet = devnet

    def run(self, *arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "quiver.live", *arguments], cwd=self.devnet.directory,
            env=make_environment() | environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def credit(self, action, *arguments):
        done = self.run("credit", action, "--config", "gateway.toml", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def earnings(self):
        done = self.run("earnings", "--config", "gateway.toml", "--json", "--by", "model")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["sum"]


@pytest.fixture(scope="module")
def devnet(tmp_path_factory):
    with Devnet(tmp_path_factory.mktemp("selling"), providers=1, chain="local") as network:
        network.kill("gateway")
        (port,) = free_ports(1)
        with open(network.directory / "gateway.toml", "a") as file:
            file.write(SELLING % port)
        network.restart("gateway")
        network.wait_for_providers(1)
        yield network


@pytest.fixture
def operator(devnet):
    return Operator(devnet)


def client(devnet, key="secret"):
    return openai.OpenAI(base_url=f"{devnet.gateway_url}/v1", api_key=key, timeout=30)


def test_credit_is_given_while_the_gateway_runs_and_spent_to_the_credit(devnet, operator):
    with client(devnet) as buyer:
        with pytest.raises(
            openai.APIStatusError, match=f"holds 0 credits, this request may cost up to {MOST}"
        ) as caught:
            buyer.chat.completions.create(model=MOCK_MODEL, messages=PROMPT, max_tokens=8)
        assert caught.value.status_code == 402
        given = operator.credit("add", "alice", "100000", "--id", "ab" * 16)
        assert given["balance"] == operator.credit("add", "alice", "100000", "--id", "ab" * 16)["balance"] == 100_000
        answer = buyer.chat.completions.create(model=MOCK_MODEL, messages=PROMPT, max_tokens=8)
    cost = answer.usage.prompt_tokens * 3 + answer.usage.completion_tokens * 20
    assert answer.model_extra["quiver"]["charged_credits"] == cost > 0
    account = operator.credit("show", "alice")
    assert (account["balance"], account["charged"], account["held"]) == (100_000 - cost, cost, 0)
    with client(devnet, "own") as free:
        answer = free.chat.completions.create(model=MOCK_MODEL, messages=PROMPT, max_tokens=8)
    assert "charged_credits" not in answer.model_extra["quiver"]
    assert [one["account"] for one in operator.credit("list")] == ["alice"]
    total = operator.earnings()
    assert (total["sold"], total["margin"]) == (cost, cost - total["cost"]) and 0 < total["cost"] <= total["served"]


def test_a_key_without_credit_and_a_name_without_a_key(operator):
    assert "no name of [[http.keys]] that pays" in (
        operator.run("credit", "add", "--config", "gateway.toml", "operator", "5").stderr
    )
    refused = operator.run("credit", "add", "--config", "gateway.toml", "alice", "--", "-999999999")
    assert refused.returncode == 2 and "can't be added to account 'alice'" in refused.stderr
    assert operator.run("credit", "show", "--config", "gateway.toml", "bob").returncode == 2


def test_the_admin_door_opens_to_nobody_without_the_nodes_key(devnet):
    lines = (devnet.directory / "gateway.toml").read_text().splitlines()
    (port,) = (line.partition("= ")[2] for line in lines if line.startswith("admin_port"))
    for headers in ({}, {"Authorization": "Bearer " + "0" * 64}, {"Authorization": "Bearer secret"}):
        body = {"id": "00" * 16, "account": "alice", "amount": 5}
        assert httpx.post(f"http://127.0.0.1:{port}/credit", json=body, headers=headers).status_code == 401
        assert httpx.get(f"http://127.0.0.1:{port}/credit", headers=headers).status_code == 401


def test_a_client_with_a_chain_account_pays_in_by_channel(devnet, operator):
    keyfile.create(devnet.directory / "customer.key")

    def pay(amount, key="secret"):
        return operator.run(
            "credit", "pay", "--network", "network.toml", "--key", "customer.key", "--gateway", devnet.gateway_url,
            "--json", str(amount), QUIVER_API_KEY=key,
        )  # fmt: skip

    before = operator.credit("show", "alice")["balance"]
    first = pay(5_000)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["given"] == 5_000
    # A second time on the same channel, which is topped up.
    assert json.loads(pay(7_000).stdout)["given"] == 7_000
    assert operator.credit("show", "alice")["balance"] == before + 12_000
    shown = httpx.get(f"{devnet.gateway_url}/credit", headers={"Authorization": "Bearer secret"}).json()
    assert shown["balance"] == before + 12_000 and shown["paid_at"]["credits_min"] == 1_000
    few, free, nobody = pay(999), pay(5_000, "own"), pay(5_000, "wrong")
    assert (few.returncode, free.returncode, nobody.returncode) == (2, 2, 2)
    assert (
        "at least 1000 credits" in few.stderr and "served without an account" in free.stderr and "401" in nobody.stderr
    )
    nowhere = {"channel": "00" * 32, "seq": 1, "cum": 5, "head": "00" * 32, "signature": "00" * 65}
    # The last may be there tomorrow: a client that sees more of a chain than its gateway asks again.
    for body, status in (("{", 400), ("{}", 400), (json.dumps(nowhere), 409)):
        refused = httpx.post(f"{devnet.gateway_url}/credit", content=body, headers={"Authorization": "Bearer secret"})
        assert refused.status_code == status and refused.json()["error"]["message"]


def test_kill_in_the_middle_of_an_answer_charges_nothing_and_frees_what_was_held(devnet, operator):
    before = operator.credit("show", "alice")
    inject(devnet, "stall:3")
    body = {"model": MOCK_MODEL, "messages": PROMPT, "max_tokens": 500, "stream": True}
    with (
        httpx.Client(timeout=30) as http,
        http.stream(
            "POST", f"{devnet.gateway_url}/v1/chat/completions", json=body, headers={"Authorization": "Bearer secret"}
        ) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert operator.credit("show", "alice")["held"] == 78 * 3 + 502 * 20
        devnet.kill("gateway")
        with pytest.raises(httpx.HTTPError):
            list(lines)
    # The store is free now: the command reads it itself.
    assert operator.credit("show", "alice") == before
    operator.credit("add", "alice", "7")
    devnet.restart("gateway")
    until(lambda: devnet.ready_providers() == 1, "the provider", 40.0)
    assert operator.credit("show", "alice")["balance"] == before["balance"] + 7
    with client(devnet) as buyer:
        answer = buyer.chat.completions.create(model=MOCK_MODEL, messages=PROMPT, max_tokens=8)
    spent = answer.model_extra["quiver"]["charged_credits"]
    assert operator.credit("show", "alice")["balance"] == before["balance"] + 7 - spent
    assert operator.earnings()["sold"] == operator.credit("show", "alice")["charged"]
