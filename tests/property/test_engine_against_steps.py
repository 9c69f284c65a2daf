"""The engine's closed form against a simulator that walks every step."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.engine import PREFILL_BATCH, Engine
from sim.hardware import PROFILES
from tests.examples import examples
from tests.unit.sim.timer_loop import FakeLoop

PROFILE = PROFILES["gpu-3060-class"]


class Ask(NamedTuple):
    at: float
    prompt: int
    output: int
    chunk: int
    cancel_after: float | None


ASKS = st.lists(
    st.builds(
        Ask,
        at=st.floats(0, 3),
        prompt=st.integers(1, 3000),
        output=st.integers(1, 40),
        chunk=st.integers(1, 20),
        cancel_after=st.none() | st.floats(0, 2),
    ),
    min_size=1,
    max_size=8,
)


def walk_steps(asks: list[Ask], slots: int) -> list[list[float]]:
    """Times of every token, one step after another; a cancelled request keeps what came before the cancellation."""
    order = sorted(range(len(asks)), key=lambda index: (asks[index].at, index))
    times: list[list[float]] = [[] for _ in asks]
    left = {index: asks[index].prompt for index in order}
    decoding: list[int] = []
    prefill: int | None = None
    gone: set[int] = set()
    now = 0.0

    def is_cancelled(index: int) -> bool:
        after = asks[index].cancel_after
        return after is not None and asks[index].at + after <= now

    while len(gone) < len(asks):
        for index in order:
            if index not in gone and is_cancelled(index):
                gone.add(index)
                decoding = [other for other in decoding if other != index]
                prefill = None if prefill == index else prefill
        waiting = [i for i in order if i not in gone and i not in decoding and i != prefill and asks[i].at <= now]
        if prefill is None and waiting and len(decoding) < slots:
            prefill = waiting[0]
        if prefill is None and not decoding:
            later = [asks[i].at for i in order if i not in gone]
            now = max(now, min(later, default=now))
            continue
        step = 0.0
        if decoding:
            mean = sum(asks[i].prompt + len(times[i]) for i in decoding) / len(decoding)
            step += PROFILE.step_s(len(decoding), mean)
        if prefill is not None:
            done = asks[prefill].prompt - left[prefill]
            batch = min(PREFILL_BATCH, left[prefill])
            step += PROFILE.prefill_s(done + batch) - PROFILE.prefill_s(done)
            left[prefill] -= batch
        now += step
        for index in list(decoding):
            times[index].append(now)
            if len(times[index]) == asks[index].output:
                decoding.remove(index)
                gone.add(index)
        if prefill is not None and left[prefill] == 0:
            decoding.append(prefill)
            prefill = None
    return times


@settings(max_examples=examples(40), deadline=None)
@given(asks=ASKS, slots=st.integers(1, 4))
def test_every_chunk_comes_when_its_last_token_was_stepped(asks: list[Ask], slots: int) -> None:
    loop = FakeLoop()
    engine = Engine(loop, PROFILE, slots=slots)
    chunks: list[list[tuple[float, int, bool]]] = [[] for _ in asks]

    def start(index: int, ask: Ask) -> None:
        def on_tokens(tokens: int, done: bool) -> None:
            chunks[index].append((loop.now, tokens, done))

        job = engine.submit(
            prompt_tokens=ask.prompt, output_tokens=ask.output, chunk_tokens=ask.chunk, on_tokens=on_tokens
        )
        if ask.cancel_after is not None:
            loop.call_at(ask.at + ask.cancel_after, engine.cancel, job)

    for index in sorted(range(len(asks)), key=lambda i: asks[i].at):
        loop.call_at(asks[index].at, start, index, asks[index])
    loop.run()
    engine.validate()
    assert engine.running == engine.waiting == 0
    expected = walk_steps(asks, slots)
    for ask, got, times in zip(asks, chunks, expected, strict=True):
        count = 0
        for position, (at, tokens, done) in enumerate(got):
            assert tokens == (1 if position == 0 else min(ask.chunk, ask.output - count))
            count += tokens
            assert at == pytest.approx(times[count - 1], abs=1e-6)
            assert done == (count == ask.output)
        if ask.cancel_after is None:
            assert count == ask.output
        else:
            # What a cancellation cuts off, the token of the running step included, is at most one chunk.
            assert 0 <= len(times) - count <= ask.chunk
