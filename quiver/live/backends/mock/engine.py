"""The mock engine: one generation from its place in the queue to its last token, with modelled time and faults."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from quiver.live.backends.mock.config import Fault, FaultKind, MockConfig
from quiver.live.backends.mock.runner import EngineError, Memory, Runner, Slot
from quiver.live.backends.mock.text import (
    CHARACTERS_PER_TOKEN,
    Detokeniser,
    compute_json_tokens,
    compute_key,
    compute_length,
    count_said,
    count_tokens,
    iterate_tokens,
)

LOG_MAX = 100_000
"Events the mock remembers."
FAULTS_MAX = 1000
"Faults that may wait for requests."
NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """A generation, whichever API asked for it."""

    model: str
    prompt: str
    "As the model reads it: after its template, with the beginning of the answer."
    beginning: str = ""
    "What the answer begins with and is not said again."
    num_predict: int = -1
    temperature: float = 0.8
    seed: int | None = None
    stop: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    load_options: tuple[tuple[str, Any], ...] = ()
    format: Any = None
    keep_alive_s: float | None = None
    fault: Fault | None = None


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """Text that became complete with the last token."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A line that is not JSON comes next."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end, with Ollama's metrics in nanoseconds of modelled time."""

    done_reason: str
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


class StreamCut(Exception):
    """The connection must break now."""


class StreamEnded(Exception):
    """The body must end now, without its last line."""


class MockEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened inside the mock, in order: its clock for tests."""

    sequence: int
    kind: str
    detail: str = ""


class MockEngine:
    """All state of one mock."""

    def __init__(self, config: MockConfig, *, now: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.log: deque[MockEvent] = deque(maxlen=LOG_MAX)
        self.faults: deque[Fault] = deque(maxlen=FAULTS_MAX)
        "Taken by the next requests, one each; a fault named by the request itself comes first."
        self.released = asyncio.Event()
        self.memory = Memory(config, now=now, sleep=self.sleep, log=self.record)
        self.now = now
        self._numbers = itertools.count(1)
        self._sequence = itertools.count(1)
        # Live entropy: a mock whose unseeded answers repeat would hide bugs of its clients.
        self.entropy = random.SystemRandom()

    def record(self, kind: str, detail: str = "") -> None:
        """Append to the log."""
        self.log.append(MockEvent(sequence=next(self._sequence), kind=kind, detail=detail))

    def count(self, kind: str) -> int:
        """How often something happened. A test may ask from another thread, so it counts in a copy."""
        return sum(event.kind == kind for event in tuple(self.log))

    def release(self) -> None:
        """Let every hung or stalled request go on."""
        self.released.set()
        self.released = asyncio.Event()

    async def generate(self, job: Job) -> AsyncGenerator[Emitted | Garbage | Finished, None]:
        """Tokens in modelled time. Closing it frees the slot; `EngineError` before the first token has a status."""
        number = next(self._numbers)
        fault = job.fault or (self.faults.popleft() if self.faults else None)
        model = self.memory.find(job.model)
        if fault is not None and fault.kind is FaultKind.HANG:
            await self.hold("hang")
        arrived = self.now()
        runner, load_s = await self.memory.acquire(model, job.load_options)
        keep_alive_s = self.config.keep_alive_s if job.keep_alive_s is None else job.keep_alive_s
        try:
            if fault is not None and fault.kind is FaultKind.CRASH:
                self.memory.unload(runner)
                raise EngineError(500, "model runner has unexpectedly stopped, this may be due to resource limitations")
            before_s = runner.busy_s
            slot = await runner.take_slot(job.prompt)
            try:
                queue_s = self._queue_s(arrived, runner.busy_s - before_s, load_s)
                run = _Run(engine=self, job=job, runner=runner, slot=slot, number=number, fault=fault)
                async with aclosing(run.items(queue_s=queue_s, load_s=load_s)) as items:
                    async for item in items:
                        yield item
            finally:
                runner.give_slot(slot)
        finally:
            self.memory.release(runner, keep_alive_s)

    def _queue_s(self, arrived: float, others_s: float, load_s: float) -> float:
        if self.config.speed == 0:
            # Nothing slept, so waiting is what those before us would have taken, shared by the slots.
            return others_s / self.config.num_parallel
        return max(0.0, (self.now() - arrived) * self.config.speed - load_s)

    async def hold(self, kind: str) -> None:
        """Wait for `release`."""
        self.record("held", kind)
        await self.released.wait()

    async def sleep(self, seconds: float) -> None:
        """Modelled seconds, in real ones by `speed`."""
        await asyncio.sleep(seconds / self.config.speed if self.config.speed else 0)


class _Run:
    """One generation that has its slot."""

    def __init__(
        self, *, engine: MockEngine, job: Job, runner: Runner, slot: Slot, number: int, fault: Fault | None
    ) -> None:
        self._engine, self._job, self._runner, self._slot = engine, job, runner, slot
        self._number, self._fault = number, fault
        self._rng = random.Random(f"{engine.config.seed}/{number}")
        self._generated = 0
        self._decode_s = 0.0

    async def items(self, *, queue_s: float, load_s: float) -> AsyncGenerator[Emitted | Garbage | Finished, None]:
        engine, job, runner = self._engine, self._job, self._runner
        prompt_tokens = count_tokens(job.prompt)
        # At least one token is always evaluated: its logits are needed.
        new_tokens = max(1, prompt_tokens - self._slot.cached_tokens(job.prompt))
        prefill_s = runner.timing.prefill_s(new_tokens)
        for stall in runner.decoding:
            stall[0] += runner.timing.stall_s(new_tokens)
        stall = [0.0]
        engine.record("start", str(self._number))
        finished = False
        try:
            await engine.sleep(prefill_s)
            self._slot.prompt = job.prompt
            runner.decoding.append(stall)
            async with aclosing(self._decode(prompt_tokens, stall)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        finished = True
                        engine.record("done", f"{self._number} {self._generated}")
                        yield self._finish(piece, queue_s, load_s, prefill_s, prompt_tokens)
                    else:
                        yield piece
        finally:
            # Lists compare by value, and two stalls may be equal: remove this very one.
            runner.decoding[:] = [other for other in runner.decoding if other is not stall]
            runner.busy_s += prefill_s + self._decode_s
            if not finished:
                engine.record("cancelled", f"{self._number} {self._generated}")

    async def _decode(self, prompt_tokens: int, stall: list[float]) -> AsyncGenerator[Emitted | Garbage | str, None]:
        detokeniser = Detokeniser(self._job.stop)
        limit = self._limit(prompt_tokens)
        tokens = self._tokens()
        while True:
            if self._generated >= limit:
                reason = "length"
                break
            await self._step(prompt_tokens, stall)
            token = next(tokens, None)
            self._generated += 1  # the end-of-sequence step counts too, as llama-server does
            if token is None:
                reason = "stop"
                break
            self._engine.record("token", f"{self._number} {self._generated}")
            text = detokeniser.feed(self._flip(token))
            if text:
                yield Emitted(text=text)
            if detokeniser.stopped:
                reason = "stop"
                break
            if (
                self._fault is not None
                and self._fault.kind is FaultKind.MALFORMED
                and self._fault.at == self._generated
            ):
                yield Garbage()
        if rest := detokeniser.flush():
            yield Emitted(text=rest)
        yield reason

    async def _step(self, prompt_tokens: int, stall: list[float]) -> None:
        fault = self._fault
        if fault is not None and fault.at == self._generated + 1:
            if fault.kind is FaultKind.STALL:
                await self._engine.hold("stall")
            elif fault.kind is FaultKind.CUT:
                raise StreamCut
            elif fault.kind is FaultKind.END:
                raise StreamEnded
            elif fault.kind is FaultKind.ERROR:
                raise EngineError(500, "an error was encountered while running the model: CUDA error")
        context = prompt_tokens + self._generated
        step_s = self._runner.timing.token_s(streams=len(self._runner.decoding), context_tokens=context, rng=self._rng)
        step_s += stall[0]
        stall[0] = 0.0
        self._decode_s += step_s
        await self._engine.sleep(step_s)

    def _limit(self, prompt_tokens: int) -> int:
        room = max(1, self._runner.model.context_tokens - prompt_tokens)
        return min(self._job.num_predict, room) if self._job.num_predict >= 0 else room

    def _tokens(self) -> Iterator[bytes]:
        job, config = self._job, self._engine.config
        seed = 0 if job.temperature == 0 else job.seed
        if seed is None or seed < 0:
            seed = self._engine.entropy.getrandbits(62)
        sampling = {**job.sampling, "temperature": job.temperature}
        digest = self._runner.model.digest_hex
        key = compute_key(digest, job.prompt.removesuffix(job.beginning), seed, sampling)
        if job.format:
            return iter(compute_json_tokens(key, job.format))
        said = count_said(key, job.beginning)
        if said is None:
            # Somebody else's words: another text follows them.
            key, said = compute_key(digest, job.prompt, seed, sampling), 0
        length = compute_length(key, *config.answer_tokens)
        diverge_at = next((index for index in range(length) if self._rng.random() < config.p_diverge), None)
        return itertools.islice(iterate_tokens(key, diverge_at=diverge_at), said, max(said, length))

    def _flip(self, token: bytes) -> bytes:
        if self._fault is None or self._fault.kind is not FaultKind.FLIP or self._fault.at != self._generated:
            return token
        return token[:-1] + bytes((token[-1] ^ 1,))

    def _finish(self, reason: str, queue_s: float, load_s: float, prefill_s: float, prompt_tokens: int) -> Finished:
        extra = self._fault.at if self._fault is not None and self._fault.kind is FaultKind.OVERCOUNT else 0
        return Finished(
            done_reason=reason,
            total_duration=round((queue_s + load_s + prefill_s + self._decode_s) * NS),
            load_duration=round(load_s * NS),
            prompt_eval_count=prompt_tokens,
            prompt_eval_duration=round(prefill_s * NS),
            eval_count=self._generated + extra,
            eval_duration=round(self._decode_s * NS),
        )


def context_of(prompt: str) -> list[int]:
    """Stand-in for the token ids that Ollama returns as `context`."""
    return [sum(map(ord, prompt[at : at + CHARACTERS_PER_TOKEN])) for at in range(0, len(prompt), CHARACTERS_PER_TOKEN)]
