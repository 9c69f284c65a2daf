"""The mock engine, seen by the official clients, and its rules by hand."""

from __future__ import annotations

import asyncio
import json
import random

import httpx
import ollama
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import UsageError
from quiver.live.backends.mock import ENGINE, Fault, MockConfig, MockModel, make_mock_app, start_mock
from quiver.live.backends.mock.__main__ import parse
from quiver.live.backends.mock.config import PROFILES, Profile
from quiver.live.backends.mock.engine import Finished, Job, MockEngine
from quiver.live.backends.mock.options import parse_keep_alive
from quiver.live.backends.mock.runner import EngineError
from quiver.live.backends.mock.text import Detokeniser, compute_key, count_tokens, iterate_tokens
from quiver.live.backends.mock.timing import PREFILL_OVERHEAD_S, Timing
from tests.live.doors import served

HELLO = [{"role": "user", "content": "hello"}]
COLD = {"temperature": 0}


@pytest.fixture
def mock():
    """(url, engine, official client)."""
    apps = []

    async def opening():
        models = (MockModel(name="mock:latest"), MockModel(name="other:1b"), MockModel(name="far", on_disk=False))
        apps.append(make_mock_app(MockConfig(models=models)))
        runner = await start_mock(apps[0], port=0)
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    with served(opening) as url:
        client = ollama.Client(host=url, timeout=10)
        yield url, apps[0][ENGINE], client
        client.close()


def test_the_official_ollama_client_chats_and_generates(mock):
    _, _, client = mock
    whole = client.chat(model="mock", messages=HELLO, options={**COLD, "num_predict": 9})
    parts = list(client.chat(model="mock", messages=HELLO, options={**COLD, "num_predict": 9}, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert (whole.done_reason, whole.eval_count, parts[-1].eval_count) == ("length", 9, 9)
    generated = client.generate(model="mock", prompt="x", options=COLD)
    assert generated.done_reason == "stop" and generated.context and generated.total_duration > generated.eval_duration


def test_the_official_openai_client_streams_with_usage(mock):
    url, _, _ = mock
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=10) as client:
        more = {"model": "mock", "messages": HELLO, "temperature": 0, "max_tokens": 7}
        chunks = list(client.chat.completions.create(**more, stream=True, stream_options={"include_usage": True}))
        whole = client.chat.completions.create(**more)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content and chunks[-1].usage.completion_tokens == 7
        assert "mock:latest" in [model.id for model in client.models.list()]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="absent", messages=HELLO)


def test_the_inventory_follows_what_is_loaded(mock):
    url, engine, client = mock
    assert [model.model for model in client.list().models] == ["mock:latest", "other:1b"] and client.ps().models == []
    client.generate(model="mock")
    assert [model.model for model in client.ps().models] == ["mock:latest"]
    assert client.generate(model="mock", keep_alive=0).done_reason == "unload" and client.ps().models == []
    assert client.show("other:1b").capabilities == ["completion"]
    assert httpx.get(f"{url}/api/version").json() == {"version": "0.33.0"} and httpx.head(url).status_code == 200


def test_pull_puts_a_model_on_disk_and_delete_takes_it_away(mock):
    _, _, client = mock
    with pytest.raises(ollama.ResponseError, match="model 'far' not found"):
        client.generate(model="far", prompt="x")
    statuses = [progress.status for progress in client.pull("far", stream=True)]
    assert statuses[0] == "pulling manifest" and statuses[-1] == "success"
    assert client.generate(model="far", prompt="x").done
    client.delete("far")
    assert "far" not in [model.model for model in client.list().models]
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull("nowhere", stream=True))


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("generate", {"model": "absent", "prompt": "x"}, 404, "model 'absent' not found"),
        ("chat", {"messages": HELLO}, 400, "model is required"),
        ("chat", {"model": "mock", "messages": HELLO, "options": {"seed": "1"}}, 400, 'option "seed" must be of type integer'),
        ("generate", {"model": "mock", "prompt": "x", "raw": True, "system": "y"}, 400,
         "raw mode does not support template, system, or context"),
    ],
)  # fmt: skip
def test_errors_are_ollamas_own_texts(mock, path, body, status, text):
    answer = httpx.post(f"{mock[0]}/api/{path}", json=body)
    assert (answer.status_code, answer.json()) == (status, {"error": text})


def test_a_fault_is_ordered_by_header_or_admin_call(mock):
    url, engine, client = mock
    body = {"model": "mock", "prompt": "x"}
    lines = httpx.post(f"{url}/api/generate", json=body, headers={"x-mock-fault": "error:3"}).text.splitlines()
    assert "CUDA" in json.loads(lines[-1])["error"]
    httpx.post(f"{url}/mock/faults", json={"fault": "crash", "times": 1})
    with pytest.raises(ollama.ResponseError, match="unexpectedly stopped") as caught:
        list(client.generate(model="mock", prompt="x", stream=True))
    assert caught.value.status_code == 500
    assert httpx.post(f"{url}/mock/faults", json={"fault": "melt"}).status_code == 400
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{url}/api/generate", json=body, headers={"x-mock-fault": "cut:3"})
    assert client.generate(model="mock", prompt="x").done
    kinds = [event["kind"] for event in httpx.get(f"{url}/mock/log").json()["events"]]
    # The crash unloaded the model, so it was loaded twice.
    assert (kinds.count("load"), kinds.count("unload"), kinds.count("done"), kinds.count("cancelled")) == (2, 1, 1, 2)


def test_a_format_gives_json_that_fits_its_schema(mock):
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer"}}}
    answer = mock[2].chat(model="mock", messages=HELLO, format=schema)
    value = json.loads(answer.message.content)
    assert isinstance(value["city"], str) and isinstance(value["people"], int)


def run(engine, **job):
    """(text, Finished) of one job."""

    async def main():
        parts, finished = [], None
        async for item in engine.generate(Job(**{"model": "mock", "prompt": "hello", **job})):
            if isinstance(item, Finished):
                finished = item
            else:
                parts.append(item.text)
        return "".join(parts), finished

    return asyncio.run(main())


def test_text_is_decided_by_model_prompt_seed_and_options():
    models = (MockModel(name="mock:latest"), MockModel(name="other:latest"))
    first, second = (MockEngine(MockConfig(models=models, seed=seed)) for seed in (1, 2))
    base = run(first, seed=1)[0]
    assert run(second, seed=1)[0] == base
    for other in (
        {"seed": 2},
        {"seed": 1, "model": "other"},
        {"seed": 1, "prompt": "bye"},
        {"seed": 1, "temperature": 0.1},
    ):
        assert run(first, **other)[0] != base
    assert run(first, seed=1, temperature=0)[0] == run(first, seed=2, temperature=0)[0]
    # Without a seed and with a temperature, a real engine never repeats itself.
    assert run(first)[0] != run(first)[0]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_an_answer_that_was_begun_is_continued_word_for_word(mock, path):
    def ask(*said, tokens):
        messages = [{"role": "user", "content": "Go on"}, *({"role": "assistant", "content": text} for text in said)]
        body = {"model": "mock", "messages": messages, "stream": False, "seed": 4, "max_tokens": tokens}
        body["options"] = {"seed": 4, "num_predict": tokens, "temperature": 1.0, "top_p": 1.0}
        answer = httpx.post(mock[0] + path, json=body).json()
        return answer["message"]["content"] if "message" in answer else answer["choices"][0]["message"]["content"]

    whole = ask(tokens=20)
    for count in (1, 7, 19):
        begun = ask(tokens=count)
        assert begun + ask(begun, tokens=20 - count) == whole
    # Whoever is given somebody else's words says something, and not the same again.
    assert ask("Well, ", tokens=20) not in whole


def test_an_honest_engine_may_diverge_after_a_common_prefix():
    same, apart = MockEngine(MockConfig()), MockEngine(MockConfig(p_diverge=0.2, seed=3))
    one, two = run(same, seed=1)[0], run(apart, seed=1)[0]
    assert one != two and one[:5] == two[:5]


def test_a_prefix_in_the_cache_is_not_evaluated_again_but_counted():
    engine = MockEngine(MockConfig())
    prompt = "word " * 400
    cold, warm = (run(engine, prompt=prompt, num_predict=1)[1] for _ in range(2))
    assert cold.prompt_eval_count == warm.prompt_eval_count == 500
    profile = PROFILES["gpu-4090"]
    # One token is always evaluated: 20 ms overhead and 1/7500 s.
    assert warm.prompt_eval_duration == pytest.approx((PREFILL_OVERHEAD_S + 1 / profile.prefill_tps) * 1e9, rel=1e-3)
    assert cold.prompt_eval_duration == pytest.approx(
        (PREFILL_OVERHEAD_S + 500 / 7500 + 1.4e-8 * 500**2) * 1e9, rel=1e-3
    )
    assert (cold.load_duration, warm.load_duration) == (2_500_000_000, 4_000_000)


def test_time_for_a_slot_shows_only_as_the_remainder_of_the_total():
    async def story():
        engine = MockEngine(MockConfig())

        async def one():
            return [item async for item in engine.generate(Job(model="mock", prompt="hello", num_predict=5))][-1]

        await one()
        return await asyncio.gather(*(one() for _ in range(3)))

    remainders = [
        last.total_duration - last.load_duration - last.prompt_eval_duration - last.eval_duration
        for last in asyncio.run(story())
    ]
    # Each answer is about 20 ms of prompt and 5 / 132 s of tokens, about 58 ms, and they go one after the other.
    assert abs(remainders[0]) <= 2
    assert 45e6 < remainders[1] < 75e6 and 100e6 < remainders[2] < 140e6


def test_a_token_costs_more_with_context_and_with_company():
    profile = Profile(
        prefill_tps=100, prefill_quadratic_s=0, decode_tps=10, context_s=1e-3, batch_slowdown=0.5, load_s=2, sigma=0
    )
    timing, rng = Timing(profile, 4_900_000_000), random.Random(1)
    assert timing.token_s(streams=1, context_tokens=0, rng=rng) == pytest.approx(0.1)
    assert timing.token_s(streams=1, context_tokens=100, rng=rng) == pytest.approx(0.2)
    assert timing.token_s(streams=3, context_tokens=0, rng=rng) == pytest.approx(0.2)
    # A stream waits for at most one batch of 512 tokens of another's prompt.
    assert (timing.stall_s(100), timing.stall_s(5000)) == (1.0, 5.12)
    assert Timing(profile, 2_450_000_000).load_s() == 1.0


def test_only_loads_are_bounded_unless_strict():
    async def story(policy):
        engine = MockEngine(MockConfig(max_queue=1, queue_policy=policy))

        async def one():
            return [item async for item in engine.generate(Job(model="mock", prompt="x", num_predict=2))]

        await one()
        return await asyncio.gather(*(one() for _ in range(5)), return_exceptions=True)

    assert not [answer for answer in asyncio.run(story("ollama")) if isinstance(answer, EngineError)]
    refused = [answer for answer in asyncio.run(story("strict")) if isinstance(answer, EngineError)]
    # One computes, one waits; a waiter leaves the line only once the slot is free.
    assert [error.status for error in refused] == [503] * 3


def test_the_least_recently_used_idle_model_makes_room_and_other_load_options_reload():
    now = [0.0]
    models = tuple(MockModel(name=name) for name in "abc")
    engine = MockEngine(MockConfig(models=models, max_loaded_models=2, keep_alive_s=100), now=lambda: now[0])
    for at, name in enumerate("abac"):
        now[0] = float(at)
        run(engine, model=name)
    assert sorted(runner.model.name for runner in engine.memory.loaded()) == ["a", "c"]
    run(engine, model="a", load_options=(("num_ctx", 8192),))
    assert [event.detail for event in engine.log if event.kind == "load"] == ["a", "b", "c", "a"]
    now[0] = 102.5  # a was used at 3 and stays until 103 ; c too
    assert len(engine.memory.loaded()) == 2
    now[0] = 103.5
    assert engine.memory.loaded() == []


@settings(max_examples=50)
@given(
    seed=st.integers(0, 1 << 32), stop=st.lists(st.sampled_from([" the", "e", "🙂", ".", " river stone"]), max_size=3)
)
def test_shown_text_is_the_text_before_the_first_stop_string(seed, stop):
    tokens = iterate_tokens(compute_key("d", "p", seed, {}))
    data = [next(tokens) for _ in range(40)]
    detokeniser, shown = Detokeniser(tuple(stop)), ""
    for token in data:
        shown += detokeniser.feed(token)
        if detokeniser.stopped:
            break
    shown += detokeniser.flush()
    assert not any(text in shown for text in stop)
    whole = b"".join(data).decode("utf-8", "ignore")
    assert whole.startswith(shown) and (detokeniser.stopped or shown == whole)


@pytest.mark.parametrize(
    ("raw", "seconds"), [(None, None), (0, 0.0), ("10m", 600.0), ("1h30m", 5400.0), ("250ms", 0.25), (-1, float("inf"))]
)
def test_keep_alive_is_seconds_or_a_go_duration(raw, seconds):
    assert parse_keep_alive(raw) == seconds


def test_keep_alive_that_is_neither_is_refused():
    for raw in ("soon", "10", True, []):
        with pytest.raises(EngineError, match="invalid duration"):
            parse_keep_alive(raw)


def test_a_config_that_cannot_work_is_refused():
    for wrong in ({"profile": "abacus"}, {"speed": -1}, {"num_parallel": 0}, {"answer_tokens": (5, 2)}):
        with pytest.raises(UsageError):
            MockConfig(**wrong)
    with pytest.raises(UsageError, match="melt"):
        Fault.parse("melt:3")


def test_the_command_line_makes_a_config():
    config, host, port = parse(
        ["--port", "0", "--model", "a", "--model", "b:1b", "--speed", "2", "--num-parallel", "4"]
    )
    assert ([model.name for model in config.models], host, port) == (["a:latest", "b:1b"], "127.0.0.1", 0)
    assert (config.speed, config.num_parallel) == (2.0, 4)


def test_a_prompt_counts_four_letters_a_token():
    assert [count_tokens(text) for text in ("", "abcd", "abcde")] == [1, 1, 2]
