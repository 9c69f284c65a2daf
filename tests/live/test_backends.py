"""Both HTTP backends through the conformance suite, and what is particular to each."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import Busy, RequestRejected, Unavailable
from quiver.ids import model_id_from_digest
from quiver.live.backends.engine import error_text, refusal
from quiver.live.backends.lines import LINE_BYTES_MAX, LineSplitter
from quiver.live.backends.mock import ENGINE, Fault, MockConfig, make_mock_app, start_mock
from quiver.live.backends.ollama import OllamaBackend
from quiver.live.backends.openai_compatible import OpenAICompatibleBackend
from quiver.live.backends.translate import to_ollama, to_openai
from quiver.values.request import Dialect
from tests.conformance.backend_suite import BackendSuite, ask, collect


class Rig:
    """A mock on a loopback port, and a backend before it."""

    def __init__(self, make_backend):
        self.make_backend = make_backend

    def run(self, story, config=None):
        async def main():
            app = make_mock_app(config or MockConfig())
            runner = await start_mock(app, port=0)
            self.stop = runner.cleanup
            digests = {model.name: model_id_from_digest(model.digest_hex) for model in app[ENGINE].config.models}
            backend = self.make_backend(f"http://127.0.0.1:{runner.addresses[0][1]}", digests)
            try:
                await story(backend, app[ENGINE])
            finally:
                await backend.close()
                await runner.cleanup()

        asyncio.run(main())


class TestOllamaBackend(BackendSuite):
    @pytest.fixture
    def engine(self):
        return Rig(lambda url, digests: OllamaBackend(url))

    def test_a_used_model_is_warm(self, engine):
        async def story(backend, mock):
            assert [model.warm for model in await backend.models()] == [False]
            await collect(backend, ask())
            assert [(model.warm, model.context_tokens) for model in await backend.models()] == [(True, 4096)]

        engine.run(story)

    def test_a_full_load_queue_is_busy(self, engine):
        async def story(backend, mock):
            with pytest.raises(Busy, match="maximum pending requests"):
                await collect(backend, ask())

        engine.run(story, MockConfig(max_queue=0))


class TestOpenAICompatibleBackend(BackendSuite):
    @pytest.fixture
    def engine(self):
        return Rig(lambda url, digests: OpenAICompatibleBackend(f"{url}/v1", digests=digests))

    def test_a_model_without_a_pinned_digest_is_not_offered(self):
        async def story(backend, mock):
            assert await backend.models() == []

        Rig(lambda url, digests: OpenAICompatibleBackend(url, digests={})).run(story)


def test_an_engine_that_stays_silent_is_unavailable():
    async def story(backend, mock):
        mock.faults.append(Fault.parse("hang"))
        with pytest.raises(Unavailable, match="silent"):
            await collect(backend, ask())

    Rig(lambda url, digests: OllamaBackend(url, silence_s=0.05)).run(story)


@settings(max_examples=40)
@given(
    lines=st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b""))),
    data=st.data(),
)
def test_lines_come_out_whole_however_the_bytes_were_cut(lines, data):
    body = b"".join(line + b"\n" for line in lines)
    splitter, out, at = LineSplitter(), [], 0
    while at < len(body):
        size = data.draw(st.integers(1, len(body) - at))
        out += splitter.feed(body[at : at + size])
        at += size
    assert out == lines and splitter.rest() == b""


def test_a_line_without_end_is_refused():
    splitter = LineSplitter()
    with pytest.raises(Unavailable, match="line of more than"):
        for _ in range(LINE_BYTES_MAX // 65536 + 1):
            splitter.feed(b"x" * 65536)


def test_an_openai_chat_becomes_an_ollama_chat_with_that_apis_defaults():
    parts = [
        {"type": "text", "text": "what"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
    ]
    path, body = to_ollama(
        ask(messages=[{"role": "user", "content": parts}], stop="END", seed=7, max_tokens=5, tools=[{}],
            response_format={"type": "json_object"})
    )  # fmt: skip
    assert path == "/api/chat" and body["messages"] == [{"role": "user", "content": "what", "images": ["QUJD"]}]
    assert body["options"] == {"temperature": 0, "top_p": 1.0, "stop": ["END"], "num_predict": 5, "seed": 7}
    assert body["format"] == "json" and body["think"] is False and "tools" not in body


def test_an_ollama_generate_becomes_an_openai_chat():
    body = to_openai(ask(dialect=Dialect.OLLAMA_GENERATE, system="be brief", format={"type": "object"}, keep_alive=-1))
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (body["max_tokens"], body["temperature"]) == (12, 0) and not {"options", "keep_alive"} & body.keys()


@pytest.mark.parametrize("field", ["raw", "template", "suffix", "context"])
def test_what_only_ollama_can_do_is_refused_by_name(field):
    with pytest.raises(RequestRejected, match=field):
        to_openai(ask(dialect=Dialect.OLLAMA_GENERATE, **{field: "x"}))


def test_a_provider_fetches_no_images_from_the_web():
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    with pytest.raises(RequestRejected, match="base64"):
        to_ollama(ask(messages=[{"role": "user", "content": [part]}]))


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["messages", "role", "content", "type", "text", "image_url", "url", "prompt", "options", "stop", "format",
         "response_format", "json_schema", "images", "system"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=50)
@given(body=_json, dialect=st.sampled_from(list(Dialect)))
def test_any_body_is_translated_or_refused_never_a_crash(body, dialect):
    request = msgspec.structs.replace(ask(dialect=dialect), body=json.dumps(body).encode())
    for translate in (to_ollama, to_openai):
        try:
            json.dumps(translate(request))
        except RequestRejected:
            pass


@pytest.mark.parametrize(
    ("data", "text"),
    [(b'{"error":"no"}', "no"), (b'{"error":{"message":"no"}}', "no"), (b"<html>", "<html>"), (b"[1]", "[1]")],
)
def test_the_error_text_of_any_engine_is_found(data, text):
    assert error_text(data) == text


def test_a_wrong_key_of_ours_is_not_the_clients_fault():
    assert isinstance(refusal(401, "no", "u"), Unavailable) and isinstance(refusal(400, "no", "u"), RequestRejected)
