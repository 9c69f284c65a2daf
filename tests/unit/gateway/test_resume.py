"""What another provider is asked when an answer broke off, dialect by dialect."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from quiver.errors import (
    BadSignature,
    Busy,
    DeadlineExceeded,
    NoProvider,
    PeerError,
    PeerUnreachable,
    ReceiptMismatch,
    WireCode,
)  # fmt: skip
from quiver.gateway.resume import Transcript, can_resume, compute_rest, is_worth_resuming
from quiver.ids import ModelId
from quiver.live.backends.translate import to_ollama, to_openai
from quiver.params import Params
from quiver.values.backend import BackendRequest
from quiver.values.request import Dialect, TokenChunk
from tests.unit.selection.builders import request

PARAMS = Params()
USER = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "Be cause"}


def transcript(*texts):
    made = Transcript()
    for text in texts:
        made.add(TokenChunk(text=text, tokens=1))
    return made


def asked(dialect, body, **changes):
    return replace(request(), dialect=dialect, body=json.dumps(body).encode(), **{"max_tokens": 10} | changes)


def rest(dialect, body, **changes):
    return compute_rest(asked(dialect, body, **changes), transcript("Be", " cause"), PARAMS)


def engine_sees(rest, translate):
    backend = BackendRequest(
        request_id=rest.request_id, name="m", model=ModelId(bytes(32)), dialect=rest.dialect, body=rest.body,
        max_tokens=rest.max_tokens, seed=rest.seed,
    )  # fmt: skip
    return translate(backend)


@pytest.mark.parametrize("dialect", [Dialect.OPENAI_CHAT, Dialect.OLLAMA_CHAT])
def test_a_chat_goes_on_with_the_assistants_word_last(dialect):
    made = rest(dialect, {"messages": [USER], "temperature": 0.5}, prompt_tokens_estimate=7, seed=3)
    assert json.loads(made.body) == {"messages": [USER, SAID], "temperature": 0.5}
    # Two tokens fewer are left, and the next provider reads two more.
    assert (made.dialect, made.max_tokens, made.prompt_tokens_estimate, made.seed) == (dialect, 8, 9, 3)
    assert engine_sees(made, to_openai)["messages"] == engine_sees(made, to_ollama)[1]["messages"] == [USER, SAID]


def test_an_answer_the_client_began_stays_one_message():
    began = {"role": "assistant", "content": "Well: "}
    made = rest(Dialect.OPENAI_CHAT, {"messages": [USER, began]})
    assert json.loads(made.body)["messages"] == [USER, {"role": "assistant", "content": "Well: Be cause"}]


def test_a_prompt_with_a_template_becomes_a_chat_so_that_the_answer_is_not_the_users():
    made = rest(
        Dialect.OLLAMA_GENERATE, {"prompt": "Why?", "system": "Brief.", "images": ["AA=="], "options": {"stop": "."}}
    )
    path, body = engine_sees(made, to_ollama)
    assert path == "/api/chat" and body["options"] == {"stop": ["."], "num_predict": 8}
    assert body["messages"] == [{"role": "system", "content": "Brief."}, {**USER, "images": ["AA=="]}, SAID]


def test_a_raw_prompt_grows():
    path, body = engine_sees(rest(Dialect.OLLAMA_GENERATE, {"prompt": "Why?", "raw": True}), to_ollama)
    assert path == "/api/generate" and (body["prompt"], body["raw"]) == ("Why?Be cause", True)


def test_the_native_dialect_keeps_its_sampling_at_both_kinds_of_engines():
    body = {"model": "m", "prompt": "Why?", "temperature": 0.0, "stop": ["."], "max_tokens": 10}
    made = rest(Dialect.NATIVE, body)
    before = asked(Dialect.NATIVE, body)
    for translate in (lambda one: to_ollama(one)[1], to_openai):
        old, new = engine_sees(before, translate), engine_sees(made, translate)
        assert new["messages"] == [USER, SAID]
        if "options" in old:
            assert new["options"] == old["options"] | {"num_predict": 8}
        else:
            assert (new["temperature"], new["stop"]) == (old["temperature"], old["stop"])


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (Dialect.OPENAI_CHAT, {"messages": [USER], "tools": [{}]}),
        (Dialect.OPENAI_CHAT, {"messages": [USER], "response_format": {"type": "json_object"}}),
        (Dialect.OPENAI_CHAT, {"messages": [USER], "n": 2}),
        (Dialect.OPENAI_CHAT, {"messages": []}),
        (Dialect.OPENAI_CHAT, {"messages": ["Why?"]}),
        (Dialect.OPENAI_CHAT, {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]}),
        (Dialect.OLLAMA_CHAT, {"messages": [USER], "format": {"type": "object"}}),
        (Dialect.OLLAMA_GENERATE, {"prompt": "a", "suffix": "b"}),
        (Dialect.OLLAMA_GENERATE, {"prompt": "a", "context": [1]}),
        (Dialect.OLLAMA_GENERATE, {"prompt": "a", "template": "{{ .Prompt }}"}),
        (Dialect.NATIVE, {"n": 5}),
        (Dialect.NATIVE, {}),
    ],
    ids=str,
)
def test_what_has_no_prefix_is_not_continued(dialect, body):
    assert not can_resume(asked(dialect, body))
    assert rest(dialect, body) is None


def test_text_asked_for_by_name_is_text():
    assert can_resume(asked(Dialect.OPENAI_CHAT, {"messages": [USER], "response_format": {"type": "text"}, "n": 1}))


def test_sealed_requests_and_those_for_one_provider_stay_where_they_are():
    body = {"messages": [USER]}
    assert can_resume(asked(Dialect.OPENAI_CHAT, body))
    assert not can_resume(asked(Dialect.OPENAI_CHAT, body, sealed=True))
    assert not can_resume(asked(Dialect.OPENAI_CHAT, body, once=True))


def test_a_complete_answer_has_no_rest_and_a_body_has_its_limit():
    assert rest(Dialect.NATIVE, {"prompt": "x"}, max_tokens=2) is None
    assert rest(Dialect.NATIVE, {"prompt": "x"}, max_tokens=3).max_tokens == 1
    long = transcript("x" * PARAMS.body_bytes_max)
    assert compute_rest(asked(Dialect.NATIVE, {"prompt": "x"}), long, PARAMS) is None


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (PeerUnreachable("lost"), True),
        (Busy("full"), True),
        (NoProvider("none"), True),
        (ReceiptMismatch("bills too much"), True),
        (PeerError("broke", wire_code=WireCode.BACKEND_FAILED), True),
        (BadSignature("the answer ended without a receipt"), False),
        (PeerError("slow", wire_code=WireCode.SLOW_CLIENT), False),
        (PeerError("late", wire_code=WireCode.DEADLINE), False),
        (DeadlineExceeded("late"), False),
    ],
    ids=str,
)
def test_only_where_the_rest_may_still_come_from_somebody_else(error, worth):
    assert is_worth_resuming(error) is worth
