"""Answers that end in the middle, on a devnet: the client learns it, and what is signed for is what was delivered.

Receipts come every 40 tokens here, so that a provider that dies has some in and some out.
"""

from __future__ import annotations

import json
import time

import httpx
import msgspec
import openai
import pytest

from quiver.live.backends.mock import make_mock_app, start_mock
from quiver.live.backends.mock.app import ENGINE
from quiver.live.backends.mock.config import MockConfig, MockModel
from quiver.live.devnet import MOCK_MODEL, Devnet, devnet_params
from quiver.units import compute_cost_credits
from tests.live.doors import served
from tests.live.network import (
    SlowClient,
    finished,
    inject,
    is_acknowledged,
    issued,
    own_bytes,
    serving,
)
from tests.live.waiting import until

RECEIPT_EVERY = 40
PRICES = {"prompt_price": 50_000, "completion_price": 150_000, "minimum_credits": 1}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def engine():
    """A mock that never ends by itself; `(application, url)`."""
    model = MockModel(name=MOCK_MODEL, context_tokens=1 << 17)
    app = make_mock_app(MockConfig(models=(model,), num_parallel=8, answer_tokens=(1 << 17, 1 << 17)))

    async def opening():
        runner = await start_mock(app, port=0)
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    with served(opening) as url:
        yield app[ENGINE], url


@pytest.fixture(scope="module")
def devnet(tmp_path_factory, engine):
    params = msgspec.structs.replace(devnet_params(3000), receipt_every_tokens=RECEIPT_EVERY, first_credit=40_000)
    with Devnet(tmp_path_factory.mktemp("net"), params=params, backend=engine[1]) as network:
        yield network


def cost(prompt_tokens, completion_tokens):
    return compute_cost_credits(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, **PRICES)


def body(prompt, max_tokens, **more):
    return {"model": MOCK_MODEL, "prompt": prompt, "max_tokens": max_tokens, "stream": True, **more}


def prompt_tokens_of(devnet, prompt):
    """As the engine counts them."""
    return httpx.post(f"{devnet.gateway_url}/generate", json=body(prompt, 1, stream=False)).json()["prompt_tokens"]


def billed(devnet, request_id, completion_tokens_max, prompt_tokens):
    """Credits of the request's receipts, once the gateway has signed for all of them; never more than was delivered."""
    receipts = issued(devnet, request_id)
    for receipt in receipts:
        until(lambda receipt=receipt: is_acknowledged(devnet, receipt), "an acknowledgement")
    paid = sum(receipt["amount"] for receipt in receipts)
    assert paid <= cost(prompt_tokens, completion_tokens_max)
    return paid


def test_after_a_kill_the_client_gets_an_error_and_pays_at_most_for_what_came(devnet, engine):
    prompt = "Break half-way"
    prompt_tokens = prompt_tokens_of(devnet, prompt)
    held = engine[0].count("held")
    inject(devnet, "stall:100")
    texts, error = [], None
    with httpx.stream("POST", f"{devnet.gateway_url}/generate", json=body(prompt, 400), timeout=40) as response:
        request_id = response.headers["x-quiver-request-id"]
        for line in map(json.loads, response.iter_lines()):
            error = line.get("error")
            if error is None:
                texts.append(line["text"])
                if len(texts) == 90:
                    until(lambda: engine[0].count("held") == held + 1, "the stalled request")
                    victim = serving(devnet)
                    devnet.kill(victim)
    devnet.restart(victim)
    devnet.wait_for_providers(2)
    assert error is not None and error["message"], "the stream ended as if it were complete"
    end = finished(devnet, request_id)
    tokens = end["completion_tokens"]
    assert end["outcome"] == "failed" and len(texts) <= tokens <= 102
    # Two receipts were in; the third never came, so the tokens after it were a gift. So was the prompt: an Ollama tells its
    # length with the last line only.
    paid = billed(devnet, request_id, tokens, prompt_tokens)
    assert cost(0, 2 * RECEIPT_EVERY) <= paid < cost(prompt_tokens, tokens)
    assert error["paid_credits"] == end["paid_credits"] == paid
    assert error["delivered_tokens"] == tokens
    # Its word for the channel and ours are one, or it would not be ready.
    assert sum(receipt["amount"] for receipt in issued(devnet, request_id)) == paid


def test_when_the_engine_breaks_what_came_is_paid_and_no_more(devnet):
    prompt = "Engine trouble"
    prompt_tokens = prompt_tokens_of(devnet, prompt)
    inject(devnet, "cut:70")
    with httpx.stream("POST", f"{devnet.gateway_url}/generate", json=body(prompt, 400), timeout=40) as response:
        request_id = response.headers["x-quiver-request-id"]
        lines = [json.loads(line) for line in response.iter_lines()]
    assert lines[-1]["error"]["code"] == "backend_failed" and "engine" in lines[-1]["error"]["message"]
    # Where the engine lives is nobody's business but its operator's.
    assert "127.0.0.1" not in lines[-1]["error"]["message"]
    end = finished(devnet, request_id)
    assert billed(devnet, request_id, end["completion_tokens"], prompt_tokens) >= cost(0, end["completion_tokens"])
    # A reset loses what was on its way: the client has at most what the engine made.
    assert 69 >= end["completion_tokens"] >= len(lines) - 1 > 0


def test_the_openai_client_raises_in_the_middle_of_a_broken_stream(devnet):
    inject(devnet, "cut:20")
    pieces = []
    with openai.OpenAI(base_url=f"{devnet.gateway_url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=MOCK_MODEL, messages=[{"role": "user", "content": "Break"}], max_tokens=60, stream=True
        )
        with pytest.raises(openai.APIError, match="the provider's engine broke"):
            pieces.extend(stream)
    assert pieces and all(piece.choices[0].finish_reason is None for piece in pieces)


def test_a_client_that_leaves_cancels_at_the_engine_and_pays_for_what_came(devnet, engine):
    prompt = "I will leave"
    prompt_tokens = prompt_tokens_of(devnet, prompt)
    inject(devnet, "stall:60")
    held, cancelled = engine[0].count("held"), engine[0].count("cancelled")
    with httpx.stream("POST", f"{devnet.gateway_url}/generate", json=body(prompt, 400), timeout=40) as response:
        request_id = response.headers["x-quiver-request-id"]
        lines = response.iter_lines()
        for _ in range(50):
            next(lines)
        until(lambda: engine[0].count("held") > held, "the stalled request")
    until(lambda: engine[0].count("cancelled") > cancelled, "the cancelled generation")
    assert finished(devnet, request_id)["outcome"] == "cancelled"
    # The last receipt follows the Cancel: it covers the rest of the 59 tokens the engine made, not one more. A character
    # of two tokens is one piece here, counted as one.
    until(lambda: len(issued(devnet, request_id)) == 2, "the last receipt")
    assert billed(devnet, request_id, 59, prompt_tokens) >= cost(0, 53)


def test_a_client_that_reads_a_byte_a_second_is_cut_off_and_costs_no_memory(devnet, engine):
    prompt, asked = "All you know", 120_000
    prompt_tokens = prompt_tokens_of(devnet, prompt)
    before = {name: own_bytes(devnet.processes[name]) for name in ("gateway", *devnet.providers)}
    cancelled = engine[0].count("cancelled")
    question = {"model": MOCK_MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": asked}
    slow = SlowClient(devnet.gateway_url, "/v1/chat/completions", question | {"stream": True})
    try:
        deadline, received = time.monotonic() + 30, b""
        while engine[0].count("cancelled") == cancelled:
            assert time.monotonic() < deadline, "the engine still works for a client that does not read"
            received += slow.read(1)
            time.sleep(1.0)
        grown = {name: own_bytes(devnet.processes[name]) - size for name, size in before.items()}
        # Others are served meanwhile.
        assert prompt_tokens_of(devnet, prompt) == prompt_tokens
        slow.hurry()
        while piece := slow.read(1 << 16):
            received += piece
    finally:
        slow.close()
    head, _, events_sent = received.partition(b"\r\n\r\n")
    request_id = next(line.split()[1].decode() for line in head.splitlines() if line.startswith(b"x-quiver-request-id"))
    end = finished(devnet, request_id)
    assert end["outcome"] == "failed" and 0 < end["completion_tokens"] < asked
    assert b'"code":"slow_client"' in events_sent and b"[DONE]" not in events_sent
    # 1,024 chunks wait in the gateway, and what the kernel and the HTTP server take: far less than the 30 MB of the answer.
    assert all(size < 12 * MIB for size in grown.values()), grown
    paid = billed(devnet, request_id, end["completion_tokens"] + 2 * devnet.params.chunk_buffer_max, prompt_tokens)
    assert cost(prompt_tokens, RECEIPT_EVERY) <= paid < cost(prompt_tokens, asked) / 2
