"""A gateway that hedges and resumes, as processes on loopback: what clients get when providers fall silent or break half-way."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from quiver.live.client.verify import verify_receipt
from quiver.live.devnet import MOCK_MODEL, Devnet
from tests.live.network import events, finished, inject, is_acknowledged, issued, mock_log, serving
from tests.live.test_devnet import POLICY
from tests.live.waiting import until

# An answer of plain words: where a character takes two tokens, who counts pieces counts fewer than the engine.
QUESTION = {
    "model": MOCK_MODEL, "messages": [{"role": "user", "content": "Tell me a long story"}], "max_tokens": 24, "seed": 21,
}  # fmt: skip


class Recovering(Devnet):
    """Its gateway hedges after a second of silence, and resumes."""

    def _write_gateway(self):
        super()._write_gateway()
        config = self.directory / "gateway.toml"
        config.write_text(
            f"resume = true\n{config.read_text()}\n[hedging]\nenabled = true\nafter_s = 1.0\nshare = 1.0\n"
        )


@pytest.fixture(scope="module")
def devnet(tmp_path_factory):
    with Recovering(tmp_path_factory.mktemp("net"), policy=POLICY, epoch_ms=3000, speed=10.0) as network:
        yield network


def stream(client, on_piece=None):
    """(text, finish reason, the `quiver` object, usage) of a streamed chat."""
    text, reason, proof, usage = "", None, None, None
    with client.chat.completions.create(**QUESTION, stream=True, stream_options={"include_usage": True}) as pieces:
        for piece in pieces:
            if piece.choices:
                text += piece.choices[0].delta.content or ""
                reason = piece.choices[0].finish_reason or reason
                if on_piece is not None:
                    on_piece()
            usage = piece.usage or usage
            proof = getattr(piece, "quiver", None) or proof
    return text, reason, proof, usage


@pytest.fixture
def client(devnet):
    with openai.OpenAI(base_url=f"{devnet.gateway_url}/v1", api_key="none", max_retries=0, timeout=40) as client:
        yield client


def test_a_provider_killed_in_its_answer_is_continued_by_another_as_if_nothing_had_been(devnet, client):
    whole, reason, _, usage = stream(client)
    assert reason == "length" and usage.completion_tokens == 24
    inject(devnet, "stall:6")
    victims = []

    def kill():
        if not victims:
            victims.append(serving(devnet))
            devnet.kill(victims[0])

    text, reason, proof, usage = stream(client, kill)
    assert text == whole, "the mock continues word for word; an engine of another build need not"
    assert (reason, usage.completion_tokens, proof["resumed"], proof["attempts"]) == ("length", 24, 1, 2)
    assert serving(devnet) != victims[0]
    end = finished(devnet, proof["request_id"])
    assert (end["outcome"], end["completion_tokens"]) == ("completed", 24)
    (resumed,) = events(devnet, "gateway", "request_resumed")
    assert 0 < resumed["delivered_tokens"] < 24
    # Its last receipt died with the first; the other is paid for what it read and wrote, and the client can tell.
    (receipt,) = issued(devnet, proof["request_id"])
    checked = verify_receipt(proof)
    assert checked["completion_tokens"] == 24 - resumed["delivered_tokens"] and not checked["answer_checked"]
    assert receipt["amount"] == proof["paid_credits"]
    until(lambda: is_acknowledged(devnet, receipt), "the acknowledgement")
    # Its channel is counted until the next look at it.
    devnet.wait_for_providers(1)
    devnet.restart(victims[0])
    devnet.wait_for_providers(2)


def test_an_engine_that_breaks_is_continued_and_both_providers_are_paid_for_their_parts(devnet, client):
    whole = stream(client)[0]
    inject(devnet, "error:9")
    text, _, proof, usage = stream(client)
    assert text == whole and proof["resumed"] == 1 and usage.completion_tokens == 24
    receipts = issued(devnet, proof["request_id"])
    assert len(receipts) == len({receipt["channel"] for receipt in receipts}) == 2
    assert sum(receipt["amount"] for receipt in receipts) == proof["paid_credits"] <= proof["quoted_credits"]
    until(lambda: all(is_acknowledged(devnet, receipt) for receipt in receipts), "the acknowledgements")
    resumed = events(devnet, "gateway", "request_resumed")[-1]
    assert resumed["delivered_tokens"] + verify_receipt(proof)["completion_tokens"] == 24


def test_what_cannot_be_continued_ends_with_a_clear_error(devnet):
    inject(devnet, "error:4")
    body = {**QUESTION, "stream": True, "response_format": {"type": "json_object"}}
    with httpx.stream("POST", f"{devnet.gateway_url}/v1/chat/completions", json=body, timeout=40) as response:
        lines = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data: {")]
    assert lines[-1]["error"]["message"] and not any(line.get("quiver") for line in lines)


def test_a_silent_provider_is_overtaken_and_told_to_stop(devnet):
    inject(devnet, "stall:1")
    held, cancelled = len(mock_log(devnet, "held")), len(mock_log(devnet, "cancelled"))
    body = {"model": MOCK_MODEL, "prompt": "Who is faster?", "max_tokens": 8, "seed": 1}
    sent = json.dumps(body).encode()
    answer = httpx.post(f"{devnet.gateway_url}/generate", content=sent, timeout=40).json()
    proof = answer["quiver"]
    assert (proof["hedged"], proof["attempts"], proof["resumed"], answer["completion_tokens"]) == (True, 2, 0, 8)
    assert verify_receipt(proof, answer=answer["text"], sent_body=sent)["answer_checked"]
    assert len(mock_log(devnet, "held")) == held + 1
    until(lambda: len(mock_log(devnet, "cancelled")) > cancelled, "the end of the slower one")
    (hedge,) = events(devnet, "gateway", "request_hedged")
    (lost,) = events(devnet, "gateway", "attempt_lost")
    assert hedge["request_id"] == lost["request_id"] == proof["request_id"]
    assert (hedge["silent"], lost["delivered_tokens"]) == (lost["provider"], 0)
    # Nothing came from it, so nothing is owed to it.
    (receipt,) = issued(devnet, proof["request_id"])
    assert receipt["amount"] == proof["paid_credits"]
