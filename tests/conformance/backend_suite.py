"""What every `InferenceBackend` must do. Subclass `BackendSuite` and give it an `engine` fixture.

`engine.run(story)` runs `await story(backend, mock)` on a fresh loop, with a backend before a fresh mock engine
(`quiver.live.backends.mock`) whose log is the clock: nothing here looks at wall time.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from quiver.errors import RejectionReason, RequestRejected, Unavailable
from quiver.live.backends.mock import Fault
from quiver.values.backend import BackendRequest
from quiver.values.request import Dialect

HELLO = [{"role": "user", "content": "hello"}]
BODIES = {
    Dialect.OPENAI_CHAT: {"model": "x", "messages": HELLO, "temperature": 0, "max_tokens": 9999},
    Dialect.OLLAMA_CHAT: {"model": "x", "messages": HELLO, "options": {"temperature": 0, "num_predict": 9999}},
    Dialect.OLLAMA_GENERATE: {"model": "x", "prompt": "hello", "options": {"temperature": 0, "num_ctx": 64}},
    Dialect.NATIVE: {"model": "x", "prompt": "hello", "temperature": 0},
}


def ask(*, dialect=Dialect.OPENAI_CHAT, max_tokens=12, name="mock:latest", seed=None, **more):
    """A request for the mock's model."""
    body = {**BODIES[dialect], **more}
    return BackendRequest(
        request_id=bytes(16), name=name, model=bytes(32), dialect=dialect, body=json.dumps(body).encode(),
        max_tokens=max_tokens, seed=seed,
    )  # fmt: skip


async def collect(backend, request):
    return [piece async for piece in backend.generate(request)]


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


class BackendSuite:
    """Behaviour of the port, by name."""

    def test_models_have_a_name_and_a_digest(self, engine):
        async def story(backend, mock):
            models = await backend.models()
            assert [(model.name, model.model.hex()) for model in models] == [
                (model.name, model.digest_hex) for model in mock.config.models
            ]

        engine.run(story)

    @pytest.mark.parametrize("dialect", list(Dialect))
    def test_each_dialect_is_answered_and_max_tokens_overrides_the_body(self, engine, dialect):
        async def story(backend, mock):
            pieces = await collect(backend, ask(dialect=dialect, max_tokens=12))
            last = pieces[-1]
            assert (last.done_reason, last.completion_tokens) == ("length", 12) and last.prompt_tokens > 0
            assert all(piece.done_reason is None for piece in pieces[:-1])
            assert 0 < sum(piece.tokens for piece in pieces) <= 12 and text_of(pieces)
            # A client's num_ctx must not reload the provider's model.
            assert all(dict(runner.options) == {} for runner in mock.memory.loaded())

        engine.run(story)

    def test_an_answer_that_ends_by_itself_says_stop(self, engine):
        async def story(backend, mock):
            last = (await collect(backend, ask(max_tokens=1000)))[-1]
            tokens = mock.count("token")
            # The engine counts its end-of-sequence step.
            assert (last.done_reason, last.completion_tokens) == ("stop", tokens + 1)

        engine.run(story)

    def test_a_piece_arrives_before_the_engine_makes_the_next(self, engine):
        async def story(backend, mock):
            mock.faults.append(Fault.parse("stall:4"))
            pieces = backend.generate(ask())
            first = await anext(pieces)
            received = [first.text]
            while len(received) < 2:
                received.append((await anext(pieces)).text)
            # Three tokens were made, the fourth is being held: what came cannot have waited for the end.
            assert mock.count("token") <= 3 and mock.count("done") == 0
            while not mock.count("held"):
                await asyncio.sleep(0)
            mock.release()
            rest = [piece async for piece in pieces]
            assert rest[-1].done_reason == "length" and mock.count("done") == 1

        engine.run(story)

    def test_closing_the_iterator_cancels_the_work_and_frees_the_slot(self, engine):
        async def story(backend, mock):
            mock.faults.append(Fault.parse("stall:3"))
            pieces = backend.generate(ask())
            await anext(pieces)
            await pieces.aclose()
            while not mock.count("cancelled"):
                await asyncio.sleep(0)
            # The mock has one slot: this would hang if it were still taken.
            assert (await collect(backend, ask()))[-1].done_reason == "length"

        engine.run(story)

    def test_cancelling_while_the_engine_is_silent_frees_the_slot(self, engine):
        async def story(backend, mock):
            mock.faults.append(Fault.parse("stall:1"))
            waiting = asyncio.create_task(collect(backend, ask()))
            while not mock.count("held"):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            while not mock.count("cancelled"):
                await asyncio.sleep(0)
            assert (await collect(backend, ask()))[-1].done_reason == "length"

        engine.run(story)

    @pytest.mark.parametrize("fault", ["cut:1", "cut:4", "end:4", "error:1", "error:4", "crash", "malformed:3"])
    def test_an_engine_that_breaks_is_unavailable_and_serves_the_next(self, engine, fault):
        async def story(backend, mock):
            mock.faults.append(Fault.parse(fault))
            with pytest.raises(Unavailable):
                await collect(backend, ask())
            assert (await collect(backend, ask()))[-1].done_reason == "length"

        engine.run(story)

    def test_what_came_before_a_cut_was_delivered(self, engine):
        async def story(backend, mock):
            whole = text_of(await collect(backend, ask()))
            mock.faults.append(Fault.parse("end:6"))
            parts = []
            with pytest.raises(Unavailable, match="cut"):
                async for piece in backend.generate(ask()):
                    parts.append(piece)
            assert text_of(parts) and whole.startswith(text_of(parts))

        engine.run(story)

    def test_text_split_byte_by_byte_is_put_together(self, engine):
        async def story(backend, mock):
            request = ask(max_tokens=60, messages=[{"role": "user", "content": "früh 🙂"}])
            whole = text_of(await collect(backend, request))
            mock.faults.append(Fault.parse("trickle"))
            assert text_of(await collect(backend, request)) == whole
            assert not whole.isascii()  # otherwise this shows nothing: choose another prompt

        engine.run(story)

    def test_the_engines_own_total_is_kept_even_when_it_lies(self, engine):
        async def story(backend, mock):
            mock.faults.append(Fault.parse("overcount:100"))
            pieces = await collect(backend, ask())
            assert pieces[-1].completion_tokens == 112 and sum(piece.tokens for piece in pieces) <= 12

        engine.run(story)

    def test_the_seed_of_the_envelope_decides(self, engine):
        async def story(backend, mock):
            warm = {"temperature": 0.9}
            texts = [text_of(await collect(backend, ask(seed=seed, **warm))) for seed in (1, 1, 2)]
            assert texts[0] == texts[1] != texts[2]

        engine.run(story)

    def test_a_stop_string_ends_the_answer_and_is_not_shown(self, engine):
        async def story(backend, mock):
            whole = text_of(await collect(backend, ask()))
            stop = whole[10:14]
            pieces = await collect(backend, ask(stop=[stop]))
            assert text_of(pieces) == whole[: whole.index(stop)] and pieces[-1].done_reason == "stop"

        engine.run(story)

    def test_an_unknown_model_and_a_bad_body_are_the_requests_fault(self, engine):
        async def story(backend, mock):
            with pytest.raises(RequestRejected) as caught:
                await collect(backend, ask(name="absent"))
            assert caught.value.reason is RejectionReason.UNKNOWN_MODEL
            for body in (b"{", b"[]", b'{"messages": 3}', b'{"messages": [1]}', b"{}"):
                broken = BackendRequest(
                    request_id=bytes(16), name="mock:latest", model=bytes(32), dialect=Dialect.OPENAI_CHAT, body=body,
                    max_tokens=1,
                )  # fmt: skip
                with pytest.raises(RequestRejected) as caught:
                    await collect(backend, broken)
                assert caught.value.reason is RejectionReason.BAD_REQUEST

        engine.run(story)

    def test_requests_at_once_keep_their_answers_apart(self, engine):
        async def story(backend, mock):
            requests = [ask(messages=[{"role": "user", "content": f"number {n}"}]) for n in range(5)]
            alone = [text_of(await collect(backend, request)) for request in requests]
            together = await asyncio.gather(*(collect(backend, request) for request in requests))
            assert [text_of(pieces) for pieces in together] == alone and len(set(alone)) == 5

        engine.run(story)

    def test_health_is_none_while_the_engine_answers_and_a_sentence_when_not(self, engine):
        async def story(backend, mock):
            assert await backend.health() is None
            await engine.stop()
            assert "not answer" in await backend.health()
            with pytest.raises(Unavailable, match="engine does not answer"):
                await collect(backend, ask())
            with pytest.raises(Unavailable):
                await backend.models()

        engine.run(story)
