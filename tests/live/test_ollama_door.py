"""The Ollama door, seen by the official client."""

from __future__ import annotations

import hashlib

import httpx
import ollama
import pytest

from quiver.errors import Busy, InsufficientCredit, RejectionReason, RequestRejected, WireCode
from quiver.live.client.verify import verify_receipt
from quiver.live.http.auth import ApiKey
from quiver.values.request import Dialect, Failure
from tests.live.doors import END, MODEL, doors

HELLO = [{"role": "user", "content": "hello"}]


_clients = []


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    while _clients:
        _clients.pop().close()


def client_of(url):
    _clients.append(ollama.Client(host=url, timeout=10))
    return _clients[-1]


def test_chat_in_one_piece_and_as_a_stream():
    with doors("Hel", "lo", END) as (url, script):
        client = client_of(url)
        answer = client.chat(model="tiny", messages=HELLO, options={"num_predict": 9, "seed": 4})
        assert answer.message.content == "Hello" and answer.done_reason == "stop" and answer.eval_count == 2
        parts = list(client.chat(model="tiny", messages=HELLO, stream=True))
        assert [part.message.content for part in parts] == ["Hel", "lo", ""]
        assert [part.done for part in parts] == [False, False, True]
        first = script.requests[0]
        assert (first.dialect, first.max_tokens, first.seed) == (Dialect.OLLAMA_CHAT, 9, 4)


def test_generate_streams_by_default_and_its_last_line_has_the_receipt():
    with doors("Hé", "llo", END) as (url, script):
        lines = httpx.post(f"{url}/api/generate", json={"model": "tiny", "prompt": "x", "unknown": 1}).text.splitlines()
        assert len(lines) == 3
        last = httpx.Response(200, text=lines[-1]).json()
        assert last["done"] and last["prompt_eval_count"] == 7 and "load_duration" not in last
        assert verify_receipt(last["quiver"], answer="Héllo", sent_body=script.requests[0].body)["answer_checked"]


def test_a_model_without_tag_is_its_latest_and_is_echoed_as_written():
    with doors("a", END) as (url, script):
        assert client_of(url).generate(model="llama3", prompt="x").model == "llama3"
        assert client_of(url).generate(model="tiny:latest", prompt="x").model == "tiny:latest"
        assert [request.model for request in script.requests] == ["llama3:latest", "tiny"]


def test_the_inventory_is_what_the_client_needs():
    with doors() as (url, _):
        client = client_of(url)
        assert [(model.model, model.digest) for model in client.list().models] == [
            ("tiny", MODEL.hex()), ("llama3:latest", MODEL.hex()),
        ]  # fmt: skip
        assert client.ps().models == [] and client.show("tiny").modelinfo == {}
        assert httpx.get(f"{url}/api/version").json() == {"version": "0.33.0"}
        assert httpx.get(url).text == "Ollama is running" and httpx.head(url).status_code == 200


def test_an_empty_prompt_loads_nothing_and_says_so():
    with doors() as (url, script):
        assert client_of(url).generate(model="tiny").done_reason == "load"
        assert client_of(url).chat(model="tiny", keep_alive=0).done_reason == "unload"
        assert script.requests == []


@pytest.mark.parametrize(
    ("refusal", "status", "text"),
    [
        (RequestRejected(RejectionReason.UNKNOWN_MODEL, "no such"), 404, "model 'tiny' not found"),
        (RequestRejected(RejectionReason.RATE_LIMITED, "slow down"), 429, "slow down"),
        (
            InsufficientCredit("alice", balance=3, need=20),
            402,
            "account 'alice' holds 3 credits, this request may cost up to 20: "
            "ask the gateway's operator for credit, or for fewer tokens",
        ),
        (Busy("full"), 503, "full"),
    ],
)
def test_a_refusal_is_a_status_and_a_text(refusal, status, text):
    with doors(refusal) as (url, _), pytest.raises(ollama.ResponseError) as caught:
        list(client_of(url).chat(model="tiny", messages=HELLO, stream=True))
    assert (caught.value.status_code, caught.value.error) == (status, text)


def test_keys_and_bad_requests_are_response_errors_of_the_client():
    key = ApiKey(name="alice", sha256=hashlib.sha256(b"secret").hexdigest(), requests_per_s=0.1, burst=2)
    with doors("a", END, keys=[key], monotonic=lambda: 100.0) as (url, script):

        def refused(headers, **more):
            with ollama.Client(host=url, headers=headers, timeout=10) as client:
                with pytest.raises(ollama.ResponseError) as caught:
                    client.chat(**{"model": "tiny", "messages": HELLO, **more})
            return caught.value.status_code, caught.value.error

        good = {"Authorization": "Bearer secret"}
        for headers in ({}, {"Authorization": "Bearer nope"}):
            status, text = refused(headers)
            assert status == 401 and "API key" in text
        status, text = refused(good, options={"num_predict": 10**12})
        assert status == 400 and "ask for 1 to 131072" in text
        with ollama.Client(host=url, headers=good, timeout=10) as client:
            assert client.chat(model="tiny", messages=HELLO).message.content == "a"
        status, text = refused(good)
        assert status == 429 and "retry in 10" in text
        assert len(script.requests) == 1


def test_a_failure_half_way_is_an_error_line_and_no_done():
    with doors("a", Failure(code=WireCode.BACKEND_FAILED, message="the engine broke")) as (url, _):
        with pytest.raises(ollama.ResponseError, match="the engine broke") as caught:
            list(client_of(url).chat(model="tiny", messages=HELLO, stream=True))
        assert caught.value.status_code == -1
        raw = httpx.post(f"{url}/api/chat", json={"model": "tiny", "messages": HELLO})
        assert raw.text.splitlines()[-1] == '{"error":"the engine broke"}'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": HELLO}, "model is required"),
        ({"model": "tiny", "messages": HELLO, "options": {"seed": "x"}}, 'option "seed" must be of type integer'),
        ({"model": "tiny", "messages": HELLO, "options": {"stop": "x"}}, 'option "stop" must be of type array'),
        ({"model": "tiny", "messages": HELLO, "options": {"num_predict": 1e12}}, "ask for 1 to 131072"),
        ({"model": "tiny", "messages": HELLO, "think": True}, "does not support thinking"),
        ({"model": "tiny", "messages": HELLO, "tools": [{}]}, "tools"),
    ],
)
def test_a_bad_request_is_a_400_that_says_what(body, text):
    with doors() as (url, _):
        answer = httpx.post(f"{url}/api/chat", json=body)
        assert answer.status_code == 400 and text in answer.json()["error"]


def test_load_time_options_and_floats_for_integers_are_tolerated():
    with doors("a", END) as (url, script):
        options = {"num_ctx": 8192, "num_predict": 3.9, "seed": -1}
        client_of(url).chat(model="tiny", messages=HELLO, options=options, keep_alive="5m")
        assert (script.requests[0].max_tokens, script.requests[0].seed) == (3, None)
