"""Real tokens through the whole house: an engine nobody here wrote, asked by the official clients. `make real-llm` runs it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import httpx
import ollama
import openai
import pytest

from quiver.live.client.verify import verify_receipt
from quiver.live.devnet import Devnet
from tests.live.llama_server import GGUF_SHA256, NAME, LlamaServer
from tests.live.waiting import until

pytestmark = pytest.mark.real_llm

QUESTION = [{"role": "user", "content": "Why is the sky blue? Answer in three sentences."}]
REPEATS = 10
REPORT = Path(__file__).parents[2] / "out" / "real_llm.md"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with LlamaServer(tmp_path_factory.mktemp("llama") / "llama.log") as server:
        yield server


@pytest.fixture(scope="module")
def devnet(tmp_path_factory, engine):
    directory = tmp_path_factory.mktemp("net")
    with Devnet(directory, providers=1, epoch_ms=3000, backend=engine.url, models={NAME: GGUF_SHA256}) as network:
        yield network


class Stream:
    """One streamed chat by the official client: pieces, when they came, the last chunk's usage and receipt."""

    def __init__(self, url, *, max_tokens, on_first=None):
        self.sent = b""
        self.texts, self.at_s, self.usage, self.quiver = [], [], None, None
        hooks = {"request": [self._on_request]}
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=httpx.Client(event_hooks=hooks)
        ) as client:
            started_s = time.perf_counter()
            chunks = client.chat.completions.create(
                model=NAME, messages=QUESTION, max_tokens=max_tokens, temperature=0.0, seed=7, stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            for chunk in chunks:
                self.usage = chunk.usage or self.usage
                self.quiver = (chunk.model_extra or {}).get("quiver", self.quiver)
                if chunk.choices and chunk.choices[0].delta.content:
                    self.texts.append(chunk.choices[0].delta.content)
                    self.at_s.append(time.perf_counter() - started_s)
                    if on_first is not None and len(self.texts) == 1:
                        on_first()

    def _on_request(self, request):
        self.sent = request.content

    @property
    def text(self):
        return "".join(self.texts)

    @property
    def ttft_s(self):
        return self.at_s[0]

    @property
    def tpot_s(self):
        return (self.at_s[-1] - self.at_s[0]) / (len(self.at_s) - 1)


def test_tokens_arrive_one_by_one_while_the_engine_still_works(devnet, engine):
    at_work = []
    answer = Stream(devnet.gateway_url, max_tokens=64, on_first=lambda: at_work.append(engine.is_generating()))
    assert at_work == [True], "the first piece came when the engine had finished"
    # A piece a token: an engine may hold back a few (incomplete UTF-8, the end of the sequence), never join them all.
    assert answer.usage.completion_tokens - 4 <= len(answer.texts) <= answer.usage.completion_tokens
    assert len(set(answer.texts)) > 10


def test_usage_is_the_engines_own_and_the_receipt_verifies(devnet, engine):
    before = engine.tokens_predicted()
    answer = Stream(devnet.gateway_url, max_tokens=48)
    assert answer.usage.completion_tokens == engine.tokens_predicted() - before == 48
    assert answer.usage.prompt_tokens == engine.count_prompt(QUESTION)
    proof = verify_receipt(answer.quiver, answer=answer.text, sent_body=answer.sent)
    assert proof["answer_checked"] and proof["request_checked"]
    assert (proof["prompt_tokens"], proof["completion_tokens"]) == (answer.usage.prompt_tokens, 48)
    # 50,000 credits per 10^6 prompt tokens, 150,000 per 10^6 completion tokens, rounded up.
    total = -(-(answer.usage.prompt_tokens * 50_000 + 48 * 150_000) // 10**6)
    assert answer.quiver["paid_credits"] == proof["amount_credits"] == total


def test_the_ollama_client_asks_the_same_engine(devnet):
    with ollama.Client(host=devnet.gateway_url) as client:
        options = {"num_predict": 16, "temperature": 0.0, "seed": 7}
        pieces = list(client.chat(model=NAME, messages=QUESTION, options=options, stream=True))
        assert len(pieces) > 8 and pieces[-1].done and pieces[-1].eval_count == 16
        assert "".join(piece.message.content or "" for piece in pieces).strip()


def test_a_client_that_leaves_stops_the_engine(devnet, engine):
    before = engine.tokens_predicted()
    body = {"model": NAME, "prompt": "Write a very long story.", "max_tokens": 1500, "stream": True}
    with httpx.stream("POST", f"{devnet.gateway_url}/generate", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        assert engine.is_generating()
    until(lambda: not engine.is_generating(), "an idle engine", timeout_s=10.0)
    assert engine.tokens_predicted() - before < 1500


def test_an_engine_that_refuses_is_an_error_of_the_client(devnet):
    with openai.OpenAI(base_url=f"{devnet.gateway_url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="the engine says: .*context size"):
            client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": "blue " * 3000}], max_tokens=8
            )


def test_figures_of_the_house_against_the_engine_alone(devnet, engine):
    """Interleaved, same prompt and seed. Nothing is asserted of speed: the figures are for the report."""
    direct, through = [], []
    for _ in range(REPEATS):
        direct.append(Stream(engine.url, max_tokens=64))
        through.append(Stream(devnet.gateway_url, max_tokens=64))
    assert {answer.usage.completion_tokens for answer in direct + through} == {64}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(render(direct, through))


def render(direct, through):
    """The report, as text."""
    root = Path(__file__).parents[2]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True).stdout

    def row(name, pick):
        cells = [statistics.median(map(pick, answers)) * 1000 for answers in (direct, through)]
        spread = [
            f"{min(map(pick, answers)) * 1000:.1f}-{max(map(pick, answers)) * 1000:.1f}"
            for answers in (direct, through)
        ]
        return f"| {name} | {cells[0]:.1f} ({spread[0]}) | {cells[1]:.1f} ({spread[1]}) |"

    same = sum(one.text == other.text for one, other in zip(direct, through, strict=True))
    return "\n".join([
        "# A real engine behind the house", "",
        "Written by `make real-llm` (tests/live/test_real_llm.py): llama-server b10434 on one CPU thread, SmolLM2-135M-Instruct Q4_1,",
        "one slot, asked by the official `openai` client directly and through gateway, QUIC and provider on loopback.", "",
        f"Date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit {commit.strip() or 'unknown'}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, n = {len(direct)} interleaved answers of 64 tokens each.", "",
        "| median (smallest - largest), milliseconds | engine alone | through QUIVer |", "|---|---|---|",
        row("time to first token", lambda answer: answer.ttft_s),
        row("time per output token", lambda answer: answer.tpot_s), "",
        f"Pieces a client received for 64 tokens: {len(direct[0].texts)} directly, {len(through[0].texts)} through QUIVer; "
        f"same text in {same} of {len(direct)} pairs (prompt {direct[0].usage.prompt_tokens} tokens, temperature 0).",
        f"Receipt of the last answer: {json.dumps({key: through[-1].quiver[key] for key in ('paid_credits', 'attempts')})}.", "",
    ])  # fmt: skip
