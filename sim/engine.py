"""A continuous-batching LLM engine, exact to the step, at the cost of one timer per chunk instead of per token.

Theory of operation. All decoding streams share every step, so one counter of steps says what every stream has produced.
Between two changes of the batch the time of m steps is a1 m + a2 m^2: contexts grow by one token a step, and a prefill
of 512-token batches rides along (its n / R0 + b n^2 telescopes over the batches). Such a stretch is a *segment*; its end is
the first stream with a chunk due, or the end of the prefill. What arrives or is cancelled inside a step takes effect at
the step's end, as in a real engine.

Rules of this file: waiting requests and prefills are first come, first served; one prefill at a time; sums are integers,
so no rounding error piles up over a long run.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from heapq import heappop, heappush
from typing import Any, Protocol

from quiver.errors import Busy, UsageError
from sim.hardware import HardwareProfile

PREFILL_BATCH = 512
"Prompt tokens that ride on one step (llama.cpp's n_ubatch)."
WAITING_MAX = 4096
"Requests that wait for a slot; providers bound their own queue far below."
_NOISE_ONE = 1_000_000


class Timer(Protocol):
    """What `call_at` gives back."""

    def cancel(self) -> None:
        """Never call it."""


class TimerLoop(Protocol):
    """The part of an asyncio loop the engine uses."""

    def time(self) -> float:
        """Seconds."""

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Timer:
        """Call at `when`."""


class JobState(StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"
    CANCELLED = "cancelled"


class Job:
    """One generation. `on_tokens(tokens, done)` is called at the end of the step that completes a chunk."""

    __slots__ = (
        "context",
        "prefill_left",
        "prefilled",
        "output",
        "chunk",
        "noise",
        "on_tokens",
        "state",
        "emitted",
        "base",
    )

    def __init__(
        self,
        *,
        context: int,
        cached: int,
        output: int,
        chunk: int,
        noise: float,
        on_tokens: Callable[[int, bool], None],
    ) -> None:
        if context < 1 or output < 1 or chunk < 1 or not 0 <= cached <= context or noise <= 0:
            raise UsageError(f"a job needs positive sizes, not context {context}, cached {cached}, output {output}")
        self.context = context
        # Even a fully cached prompt has its last token evaluated again.
        self.prefilled = min(cached, context - 1)
        self.prefill_left = context - self.prefilled
        self.output = output
        self.chunk = chunk
        self.noise = max(1, round(noise * _NOISE_ONE))
        self.on_tokens = on_tokens
        self.state = JobState.WAITING
        self.emitted = 0
        self.base = 0
        "Step counter when decoding began."


class Engine:
    """One machine serving one pool of slots."""

    def __init__(self, loop: TimerLoop, profile: HardwareProfile, *, slots: int | None = None) -> None:
        self.profile = profile
        self.slots = profile.slots if slots is None else slots
        if self.slots < 1:
            raise UsageError(f"an engine needs at least one slot, not {self.slots}")
        self._loop = loop
        self._waiting: deque[Job] = deque()
        self._prefill: Job | None = None
        self._due: list[tuple[int, int, Job]] = []
        self._joined = 0
        # Sums over decoding jobs: count, context minus base, noise.
        self._count = 0
        self._context = 0
        self._noise = 0
        self._leaving: list[Job] = []
        # The segment.
        self._timer: Timer | None = None
        self._start_s = 0.0
        self._step = 0
        self._a1 = 0.0
        self._a2 = 0.0
        self._batch = 0
        self._steps = 0
        "Steps until the armed timer."

    @property
    def running(self) -> int:
        """Slots in use."""
        return self._count + (self._prefill is not None)

    @property
    def waiting(self) -> int:
        """Jobs without a slot."""
        return len(self._waiting)

    def submit(
        self, *, prompt_tokens: int, output_tokens: int, on_tokens: Callable[[int, bool], None], chunk_tokens: int = 1,
        cached_tokens: int = 0, noise: float = 1.0,
    ) -> Job:  # fmt: skip
        """Start or queue a job. The first call of `on_tokens` has one token, later ones `chunk_tokens` or the rest.

        `noise` multiplies the job's prefill, and its share of each step it takes part in. `Busy` beyond `WAITING_MAX`.
        """
        job = Job(
            context=prompt_tokens, cached=cached_tokens, output=output_tokens, chunk=chunk_tokens, noise=noise,
            on_tokens=on_tokens,
        )  # fmt: skip
        if len(self._waiting) >= WAITING_MAX:
            raise Busy(f"the engine holds {WAITING_MAX} waiting requests; try another provider")
        self._waiting.append(job)
        if self._timer is None:
            self._begin(self._loop.time())
        elif self._prefill is None and self.running < self.slots:
            self._interrupt()
        return job

    def cancel(self, job: Job) -> None:
        """Forget a job: at once while it waits, at the end of the running step otherwise. Idempotent; no more callbacks."""
        state, job.state = job.state, JobState.CANCELLED
        if state is JobState.WAITING:
            self._waiting.remove(job)
        elif state is JobState.PREFILL or state is JobState.DECODE:
            if state is JobState.DECODE:
                self._leaving.append(job)
            self._interrupt()

    def _segment_s(self, steps: int) -> float:
        return steps * (self._a1 + self._a2 * steps)

    def _interrupt(self) -> None:
        """End the segment with the step that is running now."""
        elapsed = self._loop.time() - self._start_s
        a1, a2 = self._a1, self._a2
        done = int((math.sqrt(a1 * a1 + 4 * a2 * max(elapsed, 0.0)) - a1) / (2 * a2)) if a2 > 0 else int(elapsed / a1)
        done = min(max(done, 0), self._steps)
        # The closed form is right up to rounding: settle on the step that contains this moment.
        while done > 0 and self._segment_s(done) > elapsed:
            done -= 1
        while done < self._steps and self._segment_s(done + 1) <= elapsed:
            done += 1
        if elapsed > self._segment_s(done):
            done += 1
        if done < self._steps:
            self._arm(done)

    def _arm(self, steps: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._steps = steps
        # Rounding may put a step that ends now one ulp into the past.
        when = max(self._start_s + self._segment_s(steps), self._loop.time())
        self._timer = self._loop.call_at(when, self._on_segment_end)

    def _begin(self, now: float) -> None:
        """Start a segment at a step's end: take in a waiting job if there is room, then arm the timer."""
        self._timer = None
        if self._prefill is None and self._waiting and self._count < self.slots:
            self._prefill = self._waiting.popleft()
            self._prefill.state = JobState.PREFILL
        due = self._due
        while due and due[0][2].state is not JobState.DECODE:
            heappop(due)
        profile, prefill, count = self.profile, self._prefill, self._count
        if count == 0 and prefill is None:
            return
        a1 = a2 = 0.0
        limit = due[0][0] - self._step if due else 2**62
        if count:
            factor = (1 + profile.alpha * (count - 1)) * self._noise / (count * _NOISE_ONE)
            mean = self._context / count + self._step
            a1 = factor * (1 / profile.decode_tps + profile.context_s * (mean - 0.5))
            a2 = factor * profile.context_s / 2
        if prefill is not None:
            noise, quadratic = prefill.noise / _NOISE_ONE, profile.quadratic_s
            self._batch = batch = min(PREFILL_BATCH, prefill.prefill_left)
            a1 += noise * batch * (1 / profile.prefill_tps + 2 * quadratic * prefill.prefilled)
            a2 += noise * quadratic * batch * batch
            limit = min(limit, prefill.prefill_left // batch)
        self._start_s, self._a1, self._a2 = now, a1, a2
        self._arm(limit)

    def _on_segment_end(self) -> None:
        now = self._start_s + self._segment_s(self._steps)
        self._step += self._steps
        for job in self._leaving:
            self._remove(job)
        self._leaving.clear()
        calls = self._collect_due()
        self._advance_prefill()
        self._begin(now)
        # Last, when the next segment stands: a callback may submit or cancel.
        for job, tokens, done in calls:
            if job.state is not JobState.CANCELLED:
                job.on_tokens(tokens, done)

    def _advance_prefill(self) -> None:
        job = self._prefill
        if job is None:
            return
        if job.state is JobState.CANCELLED:
            self._prefill = None
            return
        tokens = self._batch * self._steps
        job.prefilled += tokens
        job.prefill_left -= tokens
        if job.prefill_left:
            return
        self._prefill = None
        job.state = JobState.DECODE
        job.base = self._step
        self._count += 1
        self._context += job.context - job.base
        self._noise += job.noise
        self._push(job, 1)

    def _collect_due(self) -> list[tuple[Job, int, bool]]:
        calls, due = [], self._due
        while due and due[0][0] <= self._step:
            job = heappop(due)[2]
            if job.state is not JobState.DECODE:
                continue
            tokens = self._step - job.base - job.emitted
            job.emitted += tokens
            done = job.emitted >= job.output
            if done:
                job.state = JobState.DONE
                self._remove(job)
            else:
                self._push(job, min(job.chunk, job.output - job.emitted))
            calls.append((job, tokens, done))
        return calls

    def _push(self, job: Job, tokens: int) -> None:
        self._joined += 1
        heappush(self._due, (job.base + job.emitted + tokens, self._joined, job))

    def _remove(self, job: Job) -> None:
        self._count -= 1
        self._context -= job.context - job.base
        self._noise -= job.noise

    def validate(self) -> None:
        """Assert the engine's own invariants; for tests."""
        decoding = [job for _, _, job in self._due if job.state is JobState.DECODE] + self._leaving
        assert self._count == len(decoding) and self.running <= self.slots
        assert self._context == sum(job.context - job.base for job in decoding)
        assert self._noise == sum(job.noise for job in decoding)
        assert (self._timer is not None) == (self.running > 0)
        assert self.running > 0 or not self._waiting
