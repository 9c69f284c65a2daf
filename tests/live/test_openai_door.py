"""The OpenAI door, seen by the official client."""

from __future__ import annotations

import hashlib

import httpx
import msgspec
import openai
import pytest

from quiver.errors import Busy, InsufficientCredit, NoProvider, RejectionReason, RequestRejected, WireCode
from quiver.ids import RequestId
from quiver.live.client.verify import verify_receipt
from quiver.live.http.auth import ApiKey
from quiver.values.request import Dialect, Failure, InferenceRequest, Qos
from tests.live.doors import END, PROVIDER, doors, make_final

HELLO = [{"role": "user", "content": "hello"}]


def ask(url, **more):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=10) as client:
        answer = client.chat.completions.create(model="tiny", messages=HELLO, **more)
        return list(answer) if more.get("stream") else answer


def test_an_answer_in_one_piece_carries_text_usage_and_a_receipt_that_verifies():
    with doors("Hel", "lo", END) as (url, script):
        answer = ask(url, max_tokens=5)
        assert answer.choices[0].message.content == "Hello" and answer.choices[0].finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 2, 9)
        request = script.requests[0]
        checked = verify_receipt(answer.model_extra["quiver"], answer="Hello", sent_body=request.body)
        assert checked["acknowledged_by"].startswith("0x") and checked["answer_checked"] and checked["request_checked"]
        # "user" + "hello" are 9 bytes, so 3 tokens, and 4 for the message.
        assert (request.max_tokens, request.prompt_tokens_estimate, request.dialect) == (5, 7, Dialect.OPENAI_CHAT)


def test_a_stream_is_role_text_finish_and_the_receipt_rides_on_the_last_chunk():
    with doors("Hé", "llo 🙂", END) as (url, _):
        chunks = ask(url, stream=True)
        assert [chunk.choices[0].delta.content for chunk in chunks] == ["Hé", "llo 🙂", None]
        assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == "stop"
        assert len({chunk.id for chunk in chunks}) == 1
        assert verify_receipt(chunks[-1].model_extra["quiver"], answer="Héllo 🙂")["provider"]


def test_usage_comes_as_a_last_chunk_without_choices_when_asked_for():
    with doors("a", END) as (url, _):
        last = ask(url, stream=True, stream_options={"include_usage": True})[-1]
        assert last.choices == [] and last.usage.total_tokens == 8 and "quiver" in last.model_extra


def test_the_raw_stream_ends_with_done_and_names_the_request():
    with doors("a", END) as (url, script):
        body = {"model": "tiny", "messages": HELLO, "stream": True, "some_future_field": 1}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-quiver-request-id"] == script.requests[0].request_id.hex()
        assert answer.text.endswith("\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(
    ("refusal", "kind", "code"),
    [
        (RequestRejected(RejectionReason.UNKNOWN_MODEL, "no such"), openai.NotFoundError, "model_not_found"),
        (RequestRejected(RejectionReason.RATE_LIMITED, "slow"), openai.RateLimitError, "rate_limit_exceeded"),
        (RequestRejected(RejectionReason.BAD_REQUEST, "bad"), openai.BadRequestError, None),
        (RequestRejected(RejectionReason.UNAUTHORISED, "who"), openai.AuthenticationError, "invalid_api_key"),
        (RequestRejected(RejectionReason.TOO_LARGE, "big"), openai.APIStatusError, "request_too_large"),
        (InsufficientCredit("alice", balance=3, need=20), openai.APIStatusError, "insufficient_quota"),
        (NoProvider("nobody serves tiny"), openai.InternalServerError, "unavailable"),
        (ValueError("a bug"), openai.InternalServerError, "internal"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_before_the_first_token_has_its_own_status(refusal, kind, code, stream):
    with doors(refusal) as (url, script), pytest.raises(kind) as caught:
        ask(url, stream=stream)
    assert caught.value.body["code"] == code and len(script.closed) == 1


def test_a_wrong_and_a_tired_key_raise_what_the_client_has_for_them():
    key = ApiKey(name="alice", sha256=hashlib.sha256(b"secret").hexdigest(), requests_per_s=0.1, burst=1)
    with doors("a", END, keys=[key], monotonic=lambda: 100.0) as (url, script):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="nope", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="API key") as caught:
                client.chat.completions.create(model="tiny", messages=HELLO)
            assert caught.value.status_code == 401 and caught.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client:
            assert client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message.content == "a"
            with pytest.raises(openai.RateLimitError, match="retry in 10") as caught:
                client.chat.completions.create(model="tiny", messages=HELLO)
            assert caught.value.response.headers["retry-after-ms"] == "10000"
        assert len(script.requests) == 1


def test_an_empty_account_is_told_what_it_holds_and_needs_and_the_official_client_does_not_ask_again():
    with doors(InsufficientCredit("alice", balance=3, need=20)) as (url, script):
        # It would retry a 429 twice.
        with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=2) as client:
            with pytest.raises(
                openai.APIStatusError, match="holds 3 credits, this request may cost up to 20"
            ) as caught:
                client.chat.completions.create(model="tiny", messages=HELLO)
        assert (caught.value.status_code, caught.value.body["type"]) == (402, "insufficient_quota")
        assert "retry-after" not in caught.value.response.headers and len(script.requests) == 1


def test_the_cost_is_a_header_and_a_field_and_in_a_stream_the_field():
    request = InferenceRequest(
        request_id=RequestId(bytes(16)), model="tiny", dialect=Dialect.OPENAI_CHAT, body=b"", max_tokens=5,
        prompt_tokens_estimate=1, deadline_ms=0,
    )  # fmt: skip
    final = msgspec.structs.replace(make_final(request, "a"), charged_credits=12)
    with doors("a", final) as (url, _):
        body = {"model": "tiny", "messages": HELLO}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert answer.headers["x-quiver-cost-credits"] == "12" and answer.json()["quiver"]["charged_credits"] == 12
        assert ask(url, stream=True)[-1].model_extra["quiver"]["charged_credits"] == 12
    with doors("a", END) as (url, _):
        assert "x-quiver-cost-credits" not in httpx.post(f"{url}/v1/chat/completions", json=body).headers


def test_a_busy_network_says_when_to_come_back():
    with doors(Busy("full", retry_after_s=2.2)) as (url, _), pytest.raises(openai.InternalServerError) as caught:
        ask(url)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "3"


def test_a_failure_as_first_event_is_a_status_even_for_a_stream():
    failure = Failure(code=WireCode.BACKEND_FAILED, message="the engine broke")
    with doors(failure) as (url, _), pytest.raises(openai.InternalServerError, match="the engine broke"):
        ask(url, stream=True)


def test_a_failure_half_way_is_an_error_event_and_no_done():
    failure = Failure(code=WireCode.BACKEND_FAILED, message="the engine broke", delivered_tokens=1)
    with doors("a", failure) as (url, script):
        with pytest.raises(openai.APIError, match="the engine broke"):
            ask(url, stream=True)
        raw = httpx.post(f"{url}/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "stream": True})
        assert raw.status_code == 200 and "[DONE]" not in raw.text and '"error":{' in raw.text
        assert len(script.closed) == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"max_tokens": 10**30}, "ask for 1 to 131072"),
        ({"max_tokens": 0}, "at least 1"),
        ({"temperature": 3}, "temperature"),
        ({"seed": 1 << 70}, "64 bits"),
        ({"n": 2}, "one choice"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"extra_headers": {"x-quiver-qos": "best"}}, "interactive"),
        ({"extra_headers": {"x-quiver-timeout-s": "1e9"}}, "at most 300"),
        ({"extra_headers": {"x-quiver-once": "yes"}}, "use 1 or 0"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(more, says):
    with doors("never", END) as (url, script), pytest.raises(openai.BadRequestError, match=says):
        ask(url, **more)
    assert script.requests == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"model": 1}', b'{"model":"tiny","messages":[]}', b"\xff", b"[" * 9999]
)
def test_what_is_not_a_request_is_a_400(body):
    with doors() as (url, _):
        answer = httpx.post(f"{url}/v1/chat/completions", content=body)
        assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_beyond_the_limit_is_a_413_with_and_without_a_length():
    with doors() as (url, _):
        large = b" " * (1024 * 1024 + 1)
        for content in (large, iter([large])):
            answer = httpx.post(f"{url}/v1/chat/completions", content=content)
            assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"


def test_models_are_listed_and_found_one_by_one():
    with doors() as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "llama3:latest"]
        assert client.models.retrieve("tiny").owned_by == "quiver"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("absent")


def test_headers_choose_class_of_service_and_deadline():
    with doors("a", END, utc_ms=lambda: 1_000_000) as (url, script):
        ask(url, extra_headers={"x-quiver-qos": "background", "x-quiver-timeout-s": "2.5"})
        assert (script.requests[0].qos, script.requests[0].deadline_ms) == (Qos.BATCH, 1_002_500)


def test_a_header_asks_for_one_provider_only():
    with doors("a", END, "a", END) as (url, script):
        ask(url)
        ask(url, extra_headers={"x-quiver-once": "1"})
        assert [request.once for request in script.requests] == [False, True]


def test_the_provider_shown_is_the_one_that_signed():
    with doors("a", END) as (url, _):
        assert ask(url).model_extra["quiver"]["receipt"]["body"]["provider_key"] == PROVIDER.public_key.hex()
