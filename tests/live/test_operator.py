"""An operator's commands beside a network that runs: from a request to its proof, and kill -9 between any two steps of the money.

Waiting is always for a state, never for a time.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading

import httpx
import pytest

from quiver.live.devnet import MOCK_MODEL, Devnet, make_environment
from quiver.live.settle_desk import StoreReader
from quiver.receipts.log import PayerLog, ProviderLog, payer_channels, provider_channels
from tests.live.network import events
from tests.live.waiting import until

PROVIDER = "provider-1"
BODY = {"model": MOCK_MODEL, "prompt": "Why is the sky blue?", "max_tokens": 12, "seed": 5}


@pytest.fixture(scope="module")
def devnet(tmp_path_factory):
    with Devnet(tmp_path_factory.mktemp("net"), providers=1, epoch_ms=2000, speed=20.0) as network:
        yield network


def command(devnet, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "quiver.live", *map(str, arguments)], capture_output=True, text=True, timeout=60,
        cwd=devnet.directory, env=make_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(devnet, name=PROVIDER):
    return json.loads(command(devnet, "settle", "status", "--config", f"{name}.toml", "--json"))["channels"]


def test_from_a_request_to_its_proof_while_everything_runs(devnet, tmp_path):
    sent = json.dumps(BODY).encode()
    answer = httpx.post(f"{devnet.gateway_url}/generate", content=sent, timeout=30).json()
    quiver = answer["quiver"]
    until(
        lambda: any(line["proven_epoch"] is not None and line["due"] == 0 for line in status(devnet)), "the claim", 60
    )
    (line,) = status(devnet)
    assert line["paid"] == line["acknowledged"] == line["served"] == quiver["paid_credits"] > 0
    report = json.loads(command(devnet, "earnings", "--config", f"{PROVIDER}.toml", "--by", "model", "--json"))
    assert report["sum"]["claimed"] == report["sum"]["served"] == line["paid"]
    (row,) = report["rows"]
    assert row["key"] == quiver["model"] and row["completion_tokens"] == answer["completion_tokens"]
    spent = json.loads(command(devnet, "earnings", "--config", "gateway.toml", "--json"))["sum"]
    assert spent["net"] == -line["paid"]
    bundle = tmp_path / "bundle.json"
    command(
        devnet, "settle", "prove", "--config", f"{PROVIDER}.toml", "--request", quiver["request_id"],
        "--max-tokens", quiver["max_tokens"], "--out", bundle,
    )  # fmt: skip
    (tmp_path / "request").write_bytes(sent)
    (tmp_path / "response").write_text(answer["text"])
    # The root as the ledger has it, not as the bundle says.
    epoch = json.loads(bundle.read_text())["commitment"]["epoch"]
    committed = [one for one in events(devnet, "aggregator", "epoch_committed") if one["epoch"] == epoch]
    said = command(
        devnet, "verify", bundle, "--root", committed[0]["root"], "--request", tmp_path / "request", "--response",
        tmp_path / "response",
    )  # fmt: skip
    assert said.startswith("holds: receipt, request, response, acknowledged by 0x")


def newest(devnet):
    """(payer's, provider's) head by channel, as the stores have it."""
    gateway, provider = (StoreReader(devnet.directory / f"{name}.sqlite") for name in ("gateway", PROVIDER))
    signed = {terms.channel: PayerLog.load(gateway, terms).head for _, terms in payer_channels(gateway)}
    held = {terms.channel: ProviderLog.load(provider, terms) for terms in provider_channels(provider)}
    return signed, held


def ask_on(devnet, stop, served):
    """Requests one after the other; whatever a kill breaks is asked again."""
    while not stop.is_set():
        try:
            answer = httpx.post(f"{devnet.gateway_url}/generate", json=BODY, timeout=30)
            served.append(answer.status_code)
        except httpx.HTTPError:
            continue


@pytest.mark.parametrize("victim", ["gateway", PROVIDER])
def test_kill_9_at_any_moment_loses_no_acknowledged_credit_and_forks_no_channel(devnet, victim):
    rng, stop, served = random.Random(7), threading.Event(), []
    asking = threading.Thread(target=ask_on, args=(devnet, stop, served))
    asking.start()
    try:
        for _ in range(4):
            ready = len(served)
            until(lambda ready=ready: len(served) > ready, "a request", 60)
            # A random moment of the requests under way: between signing, storing and acknowledging.
            threading.Event().wait(rng.random() * 0.2)
            devnet.kill(victim)
            devnet.restart(victim)
            devnet.wait_for_providers(1)
    finally:
        stop.set()
        asking.join()
    assert 200 in served
    until(
        lambda: all(line["due"] == 0 and line["served"] == line["acknowledged"] for line in status(devnet)),
        "claims",
        60,
    )
    signed, held = newest(devnet)
    assert signed and held.keys() == signed.keys()
    for channel, head in signed.items():
        # One history: what the payer signed for last is what the provider holds.
        assert held[channel].acknowledged == head
    for line in status(devnet):
        assert line["paid"] == line["acknowledged"]
    report = json.loads(command(devnet, "earnings", "--config", f"{PROVIDER}.toml", "--json"))["sum"]
    assert report["claimed"] == sum(head.cum for head in signed.values()) and report["unclaimed"] == report["lost"] == 0


def test_what_a_gateway_warns_of_is_shown_after_its_death_and_until_it_ends(devnet):
    path = devnet.directory / "gateway.toml"
    plain = path.read_text()

    def restart(rules):
        devnet.kill("gateway")
        path.write_text(f"{plain}\n[top_up]\n{rules}\n")
        devnet.restart("gateway")
        devnet.wait_for_providers(1)
        assert httpx.post(f"{devnet.gateway_url}/generate", json=BODY, timeout=30).status_code == 200

    def warnings():
        return json.loads(command(devnet, "settle", "status", "--config", "gateway.toml", "--json"))["warnings"]

    assert warnings() == []
    # Every request finds its channel low, and nothing may be locked.
    restart(f"low_share = 1.0\nbalance_floor = {10**15}")
    (warned,) = until(warnings, "the warning")
    assert f"{10**15} must stay" in warned["detail"]
    assert warned["fix"] == "deposit more, or lower [top_up] balance_floor"
    assert httpx.get(f"{devnet.gateway_url}/health").json()["warnings"] == 1
    devnet.kill("gateway")
    assert warnings() == [warned]
    assert "to do: deposit more, or lower [top_up] balance_floor" in command(
        devnet, "settle", "status", "--config", "gateway.toml"
    )
    found = json.loads(command(devnet, "doctor", "--config", "gateway.toml", "--json"))
    assert [one["fix"] for one in found if one["check"] == "warning"] == [warned["fix"]]
    restart("low_share = 1.0")
    until(lambda: not warnings(), "the end of the warning")
