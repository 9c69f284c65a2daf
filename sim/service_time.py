"""`InferenceBackend` over the simulated engine: when tokens come, how many, and what text they carry.

Rules of this file: a request's output length and noise are keyed by its id, its text by its content, so every policy meets
the same world. Text carries no meaning; it exists so that answers can be hashed, metered and compared.

Honest engines disagree. Measured on llama.cpp (few prompts, so these rates are estimates): another build gave the same 64
tokens for 1 of 4 prompts at temperature 0; the same build under batching or a warm cache for 3 of 4, and only prompts of
about 100 tokens or more flipped. `Divergence` turns that into a chance per token.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec

from quiver.errors import RejectionReason, RequestRejected, Unavailable, UsageError
from quiver.ids import RequestId
from quiver.values.backend import BackendRequest, InstalledModel, Piece
from sim.engine import Engine, Job
from sim.hardware import HardwareProfile
from sim.rng import Substreams

__all__ = ["Divergence", "Engine", "PrefixCache", "SimBackend", "compute_text"]

_WORDS = (
    " the", " of", " and", " a", " to", " in", " is", " that", " it", " for", " as", " with", " on", " be", " by", " are",
    " this", " from", " or", " an", " one", " at", " which", " we", " can", " each", " node", " time", " model", " token",
    " peer", " path", " key", " cost", " rate", " hash", " first", " next", " more", " less", " fast", " slow", " open",
    " proof", " round", " order", " value", " chain", ",", ".", ";", " \u2014", "s", "ing", "ed", "ly", " 1", " 2", " 7",
    " \u00e9", " \u03b1", " not", " if", " then",
)  # fmt: skip
assert len(_WORDS) == 64

BLOCK_TOKENS = 512
"Tokens of one prefix block, as in Mooncake."
MODELS_LOADED_MAX = 3
"Ollama's default of MAX_LOADED_MODELS for one GPU; the model used longest ago makes room."


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """Chance per token that an honest engine leaves the reference text for good."""

    per_token_build: float = 1 - 0.25 ** (1 / 128)
    "Two builds, each diverging alone, agree on 64 tokens with probability 0.25 (est., 1 of 4 prompts)."
    per_token_run: float = 1 - 0.75 ** (1 / 128)
    "Two runs of one build agree on 64 tokens with probability 0.75 (est., 3 of 4 prompts)."
    long_prompt_tokens: int = 100
    "Runs of shorter prompts were identical."

    @classmethod
    def none(cls) -> Divergence:
        """Every engine computes the reference text."""
        return cls(per_token_build=0.0, per_token_run=0.0)


class PrefixCache:
    """Prefix blocks whose KV cache an engine still holds; least recently used blocks are dropped beyond `blocks_max`."""

    def __init__(self, blocks_max: int = 1024) -> None:
        self.blocks_max = blocks_max
        self._blocks: OrderedDict[int | bytes, None] = OrderedDict()

    def admit(self, blocks: Sequence[int | bytes]) -> int:
        """Tokens of the longest leading run that is cached; afterwards all `blocks` are."""
        hits = 0
        while hits < len(blocks) and blocks[hits] in self._blocks:
            hits += 1
        for block in blocks:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.blocks_max:
            self._blocks.popitem(last=False)
        return hits * BLOCK_TOKENS


def compute_text(key: bytes, start: int, count: int) -> str:
    """Tokens `start` .. `start + count` of the endless text named by `key` (at least 16 bytes)."""
    offset = int.from_bytes(key[:8], "big")
    stride = int.from_bytes(key[8:16], "big") | 1
    # The shifted square keeps two texts from ever falling into step; the low bits of a product are weak, so take high ones.
    return "".join(
        _WORDS[((offset + i * stride + (i * i << 7)) >> 40) & 63] for i in range(start, start + count)
    )  # fmt: skip


def _draw_position(u: float, hazard: float) -> float:
    """First token that differs: geometric; infinity without hazard."""
    return math.floor(math.log1p(-u) / math.log1p(-hazard)) if hazard > 0 else math.inf


class _Answer(NamedTuple):
    """What a request will be answered, fixed when it starts."""

    text_key: bytes
    after_key: bytes
    "Names the text from token `leaves` on."
    leaves: float
    prompt_tokens: int
    output_tokens: int
    stopped: bool

    def piece(self, position: int, tokens: int, finished: bool) -> Piece:
        """Tokens `position` .. `position + tokens`."""
        before = int(min(max(self.leaves - position, 0), tokens))
        text = compute_text(self.text_key, position, before)
        if before < tokens:
            text += compute_text(self.after_key, position + before, tokens - before)
        return Piece(
            text=text, tokens=tokens, prompt_tokens=self.prompt_tokens if position == 0 else 0,
            done_reason=("stop" if self.stopped else "length") if finished else None,
            # Engines count the end-of-sequence step although it has no text.
            completion_tokens=self.output_tokens + self.stopped if finished else None,
        )  # fmt: skip


class SimBackend:
    """One provider's engine.

    output_tokens    answer length of a request if nothing limits it, at least 1
    chunk_tokens     1: a piece per token; n: the first token alone (so TTFT is exact), then pieces of n tokens
    build            engines of one build share their text; another build leaves it at some token
    prefix_blocks    block ids of a request for the prefix cache; None means nothing is shared
    """

    def __init__(
        self,
        profile: HardwareProfile,
        models: Sequence[InstalledModel],
        streams: Substreams,
        *,
        output_tokens: Callable[[RequestId], int],
        slots: int | None = None,
        chunk_tokens: int = 1,
        build: str = "reference",
        divergence: Divergence | None = None,
        prefix_blocks: Callable[[RequestId], Sequence[int | bytes]] | None = None,
        cache_blocks_max: int = 1024,
    ) -> None:
        if chunk_tokens < 1:
            raise UsageError(f"chunk_tokens must be at least 1, not {chunk_tokens}")
        self.profile = profile
        self.slots = profile.slots if slots is None else slots
        self._models = {model.name: model for model in models}
        self._loaded: OrderedDict[str, None] = OrderedDict((model.name, None) for model in models if model.warm)
        self._loading: dict[str, asyncio.Future[None]] = {}
        self._load_free_s = 0.0
        self._streams = streams
        self._output_tokens = output_tokens
        self._chunk_tokens = chunk_tokens
        self._build = build
        self._divergence = Divergence() if divergence is None else divergence
        self._prefix_blocks = prefix_blocks
        self._cache = PrefixCache(cache_blocks_max)
        self._engine: Engine | None = None
        self._broken: str | None = None
        self._waiters: dict[asyncio.Future[None], None] = {}

    @property
    def engine(self) -> Engine:
        """The engine, made at first use inside the loop it will live in."""
        if self._engine is None:
            self._engine = Engine(asyncio.get_running_loop(), self.profile, slots=self.slots)
        return self._engine

    async def models(self) -> Sequence[InstalledModel]:
        """As configured; `warm` as of now."""
        return [msgspec.structs.replace(model, warm=name in self._loaded) for name, model in self._models.items()]

    async def health(self) -> str | None:
        """What `fail` said, or None."""
        return self._broken

    async def close(self) -> None:
        """Running requests fail as if the engine had stopped."""
        self.fail("the engine was closed")

    def fail(self, reason: str) -> None:
        """The engine stops: running and new requests raise `Unavailable(reason)`, loaded models and caches are lost."""
        self._broken = reason
        self._loaded.clear()
        self._cache = PrefixCache(self._cache.blocks_max)
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_exception(Unavailable(reason))

    def repair(self) -> None:
        """Serve again, with nothing loaded."""
        self._broken = None

    async def generate(self, request: BackendRequest) -> AsyncIterator[Piece]:
        """Pieces in virtual time; closing the iterator frees the slot at the end of the running step."""
        if request.name not in self._models:
            raise RequestRejected(
                RejectionReason.UNKNOWN_MODEL, f"model {request.name!r} is not installed on this engine"
            )
        if request.max_tokens < 1:
            raise RequestRejected(
                RejectionReason.BAD_REQUEST, f"max_tokens must be at least 1, not {request.max_tokens}"
            )
        self._check_well()
        await self._load(request.name)
        loop = asyncio.get_running_loop()
        ready: deque[tuple[int, bool]] = deque()
        waiter: asyncio.Future[None] | None = None

        def on_tokens(tokens: int, done: bool) -> None:
            ready.append((tokens, done))
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

        answer = self._answer(request)
        job = self._submit(request, answer, on_tokens)
        try:
            position, finished = 0, False
            while not finished:
                if not ready:
                    self._check_well()
                    waiter = loop.create_future()
                    await self._wait(waiter)
                tokens, finished = ready.popleft()
                yield answer.piece(position, tokens, finished)
                position += tokens
        finally:
            self.engine.cancel(job)

    def _submit(self, request: BackendRequest, answer: _Answer, on_tokens: Callable[[int, bool], None]) -> Job:
        request_id = request.request_id
        cached = 0
        if self._prefix_blocks is not None:
            cached = self._cache.admit(self._prefix_blocks(request_id))
        z = NormalDist().inv_cdf(min(max(self._streams.uniform("service-noise", request_id), 1e-12), 1 - 1e-12))
        return self.engine.submit(
            prompt_tokens=answer.prompt_tokens, output_tokens=answer.output_tokens, on_tokens=on_tokens,
            chunk_tokens=self._chunk_tokens, cached_tokens=min(cached, answer.prompt_tokens),
            noise=math.exp(self.profile.sigma * z),
        )  # fmt: skip

    def _answer(self, request: BackendRequest) -> _Answer:
        # The same body asked again is the same content; without a body the request id stands for it.
        content = request.body or request.request_id
        parts = ("text", request.model, content, -1 if request.seed is None else request.seed)
        rates, streams = self._divergence, self._streams
        leaves = _draw_position(streams.uniform(*parts, "build", self._build), rates.per_token_build)
        after = streams.digest(*parts, "build", self._build, "after")
        if request.prompt_tokens_estimate >= rates.long_prompt_tokens:
            run = _draw_position(streams.uniform(*parts, "run", self._build, request.request_id), rates.per_token_run)
            if run < leaves:
                leaves, after = run, streams.digest(*parts, "run", self._build, request.request_id, "after")
        wanted = max(1, self._output_tokens(request.request_id))
        return _Answer(
            text_key=streams.digest(*parts), after_key=after, leaves=leaves,
            prompt_tokens=max(1, request.prompt_tokens_estimate), output_tokens=min(wanted, request.max_tokens),
            stopped=wanted < request.max_tokens,
        )  # fmt: skip

    def _check_well(self) -> None:
        if self._broken is not None:
            raise Unavailable(self._broken)

    async def _wait(self, waiter: asyncio.Future[None]) -> None:
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            del self._waiters[waiter]

    async def _load(self, name: str) -> None:
        """Wait until `name` is loaded; one load at a time, requests for the same model share it."""
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        loop = asyncio.get_running_loop()
        if name not in self._loading:
            self._loading[name] = loop.create_future()
            self._load_free_s = max(self._load_free_s, loop.time()) + self.profile.load_s
            loop.call_at(self._load_free_s, self._on_loaded, name)
        waiter = loop.create_future()

        def pass_on(_: asyncio.Future[None]) -> None:
            if not waiter.done():
                waiter.set_result(None)

        self._loading[name].add_done_callback(pass_on)
        await self._wait(waiter)
        self._check_well()

    def _on_loaded(self, name: str) -> None:
        self._loading.pop(name).set_result(None)
        if self._broken is not None:
            return
        self._loaded[name] = None
        while len(self._loaded) > MODELS_LOADED_MAX:
            self._loaded.popitem(last=False)
