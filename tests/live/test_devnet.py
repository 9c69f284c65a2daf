"""A whole network of processes on loopback, used by the official clients, and broken on purpose.

One devnet serves the module; the last test stops it. Waiting is always for a state, never for a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import ollama
import openai
import pytest

from quiver.live import keyfile
from quiver.live.chain.shared_evm import SharedEvmLedger
from quiver.live.client.verify import verify_receipt
from quiver.live.clock import LiveClock
from quiver.live.config_network import load_network, parse_account
from quiver.live.devnet import MOCK_MODEL, Devnet, make_environment
from tests.live.network import events, finished, inject, mock_log, serving
from tests.live.waiting import until

POLICY = f"{Path(__file__).with_name('fewest_open.py')}:FewestOpen"


@pytest.fixture(scope="module")
def devnet(tmp_path_factory):
    with Devnet(tmp_path_factory.mktemp("net"), policy=POLICY, epoch_ms=3000, speed=10.0) as network:
        yield network


def command(devnet, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "quiver.live", *arguments], capture_output=True, text=True, timeout=30,
        cwd=devnet.directory, env=make_environment(),
    )  # fmt: skip


def test_the_openai_client_chats_streams_and_lists(devnet):
    with openai.OpenAI(base_url=f"{devnet.gateway_url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [MOCK_MODEL]
        question = {
            "model": MOCK_MODEL,
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "max_tokens": 12,
        }
        whole = client.chat.completions.create(**question, seed=5)
        assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 12
        assert whole.usage.prompt_tokens > 0
        with client.chat.completions.create(**question, seed=5, stream=True) as pieces:
            streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert streamed == whole.choices[0].message.content
        with pytest.raises(openai.NotFoundError, match="nope"):
            client.chat.completions.create(model="nope", messages=question["messages"])
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MOCK_MODEL, messages=[])


def test_the_ollama_client_generates_chats_streams_and_lists(devnet):
    with ollama.Client(host=devnet.gateway_url) as client:
        assert [model.model for model in client.list().models] == [MOCK_MODEL]
        options = {"num_predict": 8, "seed": 3}
        whole = client.generate(model="mock", prompt="Tell me", options=options)
        assert whole.done and whole.eval_count == 8 and whole.prompt_eval_count > 0
        streamed = [
            piece.response for piece in client.generate(model="mock", prompt="Tell me", options=options, stream=True)
        ]
        assert "".join(streamed) == whole.response and len(streamed) > 2
        chat = client.chat(model=MOCK_MODEL, messages=[{"role": "user", "content": "Hello"}], options=options)
        assert chat.message.content and chat.done_reason == "length"
        with pytest.raises(ollama.ResponseError) as refused:
            client.generate(model="nope", prompt="x")
        assert refused.value.status_code == 404


def test_the_receipt_of_an_answer_verifies_against_its_text_and_its_request(devnet):
    sent = json.dumps({"model": MOCK_MODEL, "prompt": "Sign this", "max_tokens": 10}).encode()
    answer = httpx.post(f"{devnet.gateway_url}/generate", content=sent, timeout=20).json()
    proof = verify_receipt(answer["quiver"], answer=answer["text"], sent_body=sent)
    assert proof["answer_checked"] and proof["request_checked"]
    assert proof["completion_tokens"] == answer["completion_tokens"] == 10
    assert events(devnet, "gateway", "request_dispatched")[-1]["policy"] == "fewest-open"


def test_the_terminal_client_verifies_and_says_what_is_wrong(devnet):
    good = command(
        devnet, "client", "--gateway", devnet.gateway_url, "--model", MOCK_MODEL, "--max-tokens", "5", "--json", "Hi"
    )
    assert good.returncode == 0, good.stderr
    answer = json.loads(good.stdout)
    assert answer["completion_tokens"] == 5 and answer["verified"]["request_checked"] is True
    bad = command(devnet, "client", "--gateway", devnet.gateway_url, "--model", "nope", "Hi")
    assert bad.returncode == 2 and "'nope' is not served here" in bad.stderr and len(bad.stderr.splitlines()) == 1


def test_doctor_finds_a_working_provider_well(devnet):
    done = command(devnet, "doctor", "--config", "provider-1.toml", "--json")
    findings = {finding["check"]: finding["status"] for finding in json.loads(done.stdout)}
    assert done.returncode == 0 and findings["backend"] == findings["bootstrap"] == findings["chain"] == "ok"


def test_an_epoch_closes_and_a_claim_raises_a_providers_balance(devnet):
    network = load_network(devnet.directory / "network.toml")
    accounts = [keyfile.load(devnet.directory / f"{name}.key").account for name in devnet.providers]
    where = {"contract": network.chain.contract, "aggregator": network.aggregator.account}
    ledger = SharedEvmLedger(
        devnet.directory / network.chain.path, accounts[0], chain_id=network.chain.id, params=network.params,
        clock=LiveClock(), **{name: parse_account(text, where=name) for name, text in where.items()},
    )  # fmt: skip
    before = sum(map(ledger.balance, accounts))
    sent = json.dumps({"model": MOCK_MODEL, "prompt": "Pay for this", "max_tokens": 30}).encode()
    paid = httpx.post(f"{devnet.gateway_url}/generate", content=sent, timeout=20).json()["quiver"]["paid_credits"]
    assert paid > 0
    until(lambda: sum(map(ledger.balance, accounts)) >= before + paid, "the claim")
    assert events(devnet, "aggregator", "epoch_committed")
    kinds = {event.transaction.__struct_config__.tag for event in ledger.events(0)}
    assert {"deposit", "open", "submit_epoch"} <= kinds


def test_a_provider_killed_before_the_first_token_is_replaced(devnet):
    inject(devnet, "stall:1")
    held = len(mock_log(devnet, "held"))
    answers = []
    body = {"model": MOCK_MODEL, "prompt": "Outlive one provider", "max_tokens": 6}
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{devnet.gateway_url}/generate", json=body, timeout=40).json())
    )
    asking.start()
    until(lambda: len(mock_log(devnet, "held")) > held, "the stalled request")
    victim = serving(devnet)
    devnet.kill(victim)
    asking.join()
    assert answers[0]["completion_tokens"] == 6 and answers[0]["quiver"]["attempts"] == 2
    assert serving(devnet) != victim
    devnet.restart(victim)
    devnet.wait_for_providers(2)


def test_a_provider_killed_in_the_middle_gives_a_clear_error_and_no_false_end(devnet):
    inject(devnet, "stall:4")
    body = {"model": MOCK_MODEL, "prompt": "Break half-way", "max_tokens": 20, "stream": True}
    lines, victim = [], ""
    with httpx.stream("POST", f"{devnet.gateway_url}/generate", json=body, timeout=40) as response:
        request_id = response.headers["x-quiver-request-id"]
        for line in response.iter_lines():
            lines.append(json.loads(line))
            if not victim:
                victim = serving(devnet)
                devnet.kill(victim)
    assert lines[0]["text"] and not any(line.get("done") for line in lines)
    assert lines[-1]["error"]["message"]
    assert finished(devnet, request_id)["outcome"] == "failed"


def test_without_any_provider_both_clients_get_a_503_that_says_so(devnet):
    for name in devnet.providers:
        if devnet.processes[name].poll() is None:
            devnet.kill(name)
    until(lambda: devnet.ready_providers() == 0, "a gateway without providers")
    question = [{"role": "user", "content": "Anybody there?"}]
    with openai.OpenAI(base_url=f"{devnet.gateway_url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="provider|could not be dialled") as refused:
            client.chat.completions.create(model=MOCK_MODEL, messages=question)
    assert refused.value.status_code == 503 and float(refused.value.response.headers["retry-after"]) >= 1
    with ollama.Client(host=devnet.gateway_url) as client, pytest.raises(ollama.ResponseError) as refused:
        client.chat(model=MOCK_MODEL, messages=question)
    assert refused.value.status_code == 503 and refused.value.error
    for name in devnet.providers:
        devnet.restart(name)
    devnet.wait_for_providers(2)


def test_stopping_during_an_answer_is_clean_and_leaves_no_process(devnet):
    inject(devnet, "stall:3")
    held = len(mock_log(devnet, "held"))
    body = {"model": MOCK_MODEL, "prompt": "Stop during this", "max_tokens": 20}
    ends = []

    def ask():
        try:
            ends.append(httpx.post(f"{devnet.gateway_url}/generate", json=body, timeout=40).status_code)
        except httpx.TransportError as error:
            ends.append(type(error).__name__)

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: len(mock_log(devnet, "held")) > held, "the stalled request")
    running = [name for name, process in devnet.processes.items() if process.poll() is None]
    codes = devnet.stop()
    asking.join()
    assert {name: codes[name] for name in running} == dict.fromkeys(running, 0)
    assert all(process.poll() is not None for process in devnet.processes.values())
    assert ends and ends != [200]
    logs = [devnet.log_path(name).read_text() for name in codes]
    assert not [line for log in logs for line in log.splitlines() if "traceback" in line.lower()]
