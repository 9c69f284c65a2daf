"""The simulated backend on the simulated loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from quiver.errors import RequestRejected, Unavailable, UsageError
from quiver.ids import ModelId, RequestId
from quiver.values.backend import BackendRequest, InstalledModel, Piece
from quiver.values.request import Dialect
from sim.hardware import POOLS, PROFILES, sample_pool
from sim.loop import Environment
from sim.rng import Substreams
from sim.service_time import Divergence, PrefixCache, SimBackend, compute_text
from tests.unit.sim.test_engine import make_profile

MODEL = ModelId(bytes(32))


def make(*, warm: bool = True, names: str = "m", profile: Any = None, output: int = 3, **options: Any) -> SimBackend:
    models = [InstalledModel(name=name, model=MODEL, warm=warm) for name in names]
    return SimBackend(
        profile or make_profile(), models, Substreams(1), output_tokens=lambda request_id: output, **options
    )


def ask(number: int = 1, *, prompt: int = 100, limit: int = 1000, body: bytes = b"", name: str = "m") -> BackendRequest:
    return BackendRequest(
        request_id=RequestId(number.to_bytes(16, "big")), name=name, model=MODEL, dialect=Dialect.NATIVE, body=body,
        max_tokens=limit, prompt_tokens_estimate=prompt,
    )  # fmt: skip


async def read(backend: SimBackend, request: BackendRequest) -> list[tuple[float, Piece]]:
    loop = asyncio.get_running_loop()
    return [(loop.time(), piece) async for piece in backend.generate(request)]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return Environment().run_coroutine(coroutine)


def test_pieces_come_in_virtual_time_and_the_last_one_closes_the_count():
    pieces = run(read(make(), ask()))
    assert [at for at, _ in pieces] == pytest.approx([0.2, 0.3, 0.4])
    assert [piece.prompt_tokens for _, piece in pieces] == [100, 0, 0]
    assert [piece.done_reason for _, piece in pieces] == [None, None, "stop"]
    assert pieces[-1][1].completion_tokens == 4
    assert run(read(make(), ask(limit=2)))[-1][1].done_reason == "length"
    assert run(read(make(), ask(limit=2)))[-1][1].completion_tokens == 2


def test_coalescing_changes_neither_text_nor_first_and_last_time():
    def whole(chunk_tokens: int) -> tuple[float, float, str, int]:
        pieces = run(read(make(output=50, chunk_tokens=chunk_tokens), ask()))
        return (
            pieces[0][0],
            round(pieces[-1][0], 9),
            "".join(p.text for _, p in pieces),
            sum(p.tokens for _, p in pieces),
        )

    assert whole(1) == whole(7) == whole(100)


def test_closing_the_iterator_frees_the_slot():
    async def main() -> list[tuple[float, Piece]]:
        backend = make(slots=1, output=1000)
        async with aclosing(backend.generate(ask(1))) as pieces:
            async for _ in pieces:
                break
        return await read(backend, ask(2, limit=1))

    # Closed at 0.2 inside the next step, which ends at 0.2 or 0.3; then 0.1 prefill and 0.1 step.
    assert run(main())[0][0] == pytest.approx(0.4)


def test_a_cold_model_loads_once_for_all_who_wait_and_loads_queue():
    async def main() -> list[float]:
        backend = make(warm=False, names="ab")
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(read(backend, ask(i, name=name, limit=1))) for i, name in enumerate("aab")]
        first = [(await task)[0][0] for task in tasks]
        assert [model.warm for model in await backend.models()] == [True, True]
        return first

    # a is loaded at 3.0; its second request prefills while the first decodes; b is loaded at 6.0.
    assert run(main()) == pytest.approx([3.3, 3.4, 6.2], abs=0.11)


def test_a_fourth_model_unloads_the_one_used_longest_ago():
    async def main() -> list[str]:
        backend = make(warm=False, names="abcd")
        for number, name in enumerate("abcad"):
            await read(backend, ask(number, name=name, limit=1))
        return [model.name for model in await backend.models() if model.warm]

    assert run(main()) == ["a", "c", "d"]


def test_a_failing_engine_raises_in_every_running_request_until_repaired():
    async def main() -> None:
        backend = make(output=1000)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(read(backend, ask(number))) for number in range(2)]
        loop.call_later(0.5, backend.fail, "the runner has stopped")
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, Unavailable)
        assert await backend.health() == "the runner has stopped"
        with pytest.raises(Unavailable):
            await read(backend, ask(3))
        backend.repair()
        assert await backend.health() is None
        # The model is cold again.
        assert (await read(backend, ask(4, limit=1)))[0][0] == pytest.approx(3.7, abs=0.15)

    run(main())


def test_unknown_models_and_empty_limits_are_rejected():
    for request in (ask(name="z"), ask(limit=0)):
        with pytest.raises(RequestRejected):
            run(read(make(), request))
    with pytest.raises(UsageError):
        make(chunk_tokens=0)


def answer(backend: SimBackend, request: BackendRequest) -> str:
    return "".join(piece.text for _, piece in run(read(backend, request)))


def test_text_is_keyed_by_content_so_the_same_body_gives_the_same_text():
    honest = {"divergence": Divergence.none(), "output": 40}
    assert answer(make(**honest), ask(1, body=b"q")) == answer(make(**honest, build="other"), ask(2, body=b"q"))
    assert answer(make(**honest), ask(1, body=b"q")) != answer(make(**honest), ask(1, body=b"r"))
    assert answer(make(**honest), ask(1)) != answer(make(**honest), ask(2))


def test_two_builds_agree_on_64_tokens_for_a_quarter_of_prompts_and_one_build_on_all_short_ones():
    rates = Divergence()

    def first(build: str, number: int) -> float:
        return make(build=build, divergence=rates)._answer(ask(number, prompt=20, body=b"%d" % number)).leaves

    pairs = [(first("a", number), first("b", number)) for number in range(1500)]
    assert sum(min(pair) >= 64 for pair in pairs) / len(pairs) == pytest.approx(0.25, abs=0.04)
    backend = make(output=64)
    assert answer(backend, ask(1, prompt=20, body=b"q")) == answer(make(output=64), ask(2, prompt=20, body=b"q"))


def test_answers_that_diverge_share_their_beginning():
    sure = Divergence(per_token_build=0.2, per_token_run=0.0)
    a, b = (answer(make(output=60, divergence=sure, build=build), ask(1, body=b"q")) for build in ("a", "b"))
    reference = answer(make(output=60, divergence=Divergence.none()), ask(1, body=b"q"))
    assert a != b and reference[:3] == a[:3]
    assert compute_text(b"k" * 16, 0, 10) == compute_text(b"k" * 16, 0, 4) + compute_text(b"k" * 16, 4, 6)


def test_a_shared_prefix_shortens_the_prefill():
    blocks = {1: [b"x", b"y"], 2: [b"x", b"z"]}
    backend = make(prefix_blocks=lambda request_id: blocks[int.from_bytes(request_id, "big")])

    async def main() -> list[float]:
        loop, spans = asyncio.get_running_loop(), []
        for number in (1, 2):
            start = loop.time()
            spans.append((await read(backend, ask(number, prompt=1000, limit=1)))[0][0] - start)
        return spans

    # 1000 tokens, then 1000 - 512 = 488, each with one step of 0.1 s.
    assert run(main()) == pytest.approx([1.1, 0.588])


def test_the_prefix_cache_drops_the_block_used_longest_ago():
    cache = PrefixCache(blocks_max=3)
    assert [cache.admit(blocks) for blocks in ([1, 2], [1, 3], [1, 2], [1, 4, 5], [1, 2])] == [0, 512, 1024, 512, 512]


def test_noise_is_keyed_by_the_request_not_by_the_engine():
    noisy = make_profile(sigma=0.2)
    spans = [run(read(make(profile=noisy), ask(number)))[-1][0] for number in (1, 1, 2)]
    assert spans[0] == spans[1] != spans[2]


def test_profiles_match_their_anchors():
    # GPU-Benchmarks: 3090 tg512 115.4, tg8192 87.5 and pp8192 2527; 4090 tg512 130.6, tg8192 110.7, pp8192 4040.
    for name, short, long, prefill in (("gpu-3090", 115.4, 87.5, 2527), ("gpu-4090", 130.6, 110.7, 4040)):
        profile = PROFILES[name]
        assert 1 / profile.step_s(1, 256) == pytest.approx(short, rel=0.02)
        assert 1 / profile.step_s(1, 4096) == pytest.approx(long, rel=0.02)
        assert 8192 / profile.prefill_s(8192) == pytest.approx(prefill, rel=0.12)
    assert "alpha" in PROFILES["gpu-4090"].estimated and PROFILES["gpu-4090"].source


def test_a_larger_model_is_slower_in_proportion():
    double = PROFILES["gpu-3090"].for_model(weight_ratio=2.0)
    assert double.step_s(1, 100) == pytest.approx(2 * PROFILES["gpu-3090"].step_s(1, 100))
    assert double.prefill_s(700) == pytest.approx(2 * PROFILES["gpu-3090"].prefill_s(700))


def test_a_pool_has_the_shares_asked_for_and_repeats_by_seed():
    pool = sample_pool(4000, random.Random(1))
    assert [p.name for p in pool] == [p.name for p in sample_pool(4000, random.Random(1))]
    for name, share in POOLS["consumer"].items():
        assert sum(profile.name == name for profile in pool) / 4000 == pytest.approx(share, abs=0.03)
    assert {p.name for p in sample_pool(3, random.Random(1), "gpu-h100")} == {"gpu-h100"}
    with pytest.raises(UsageError, match="gpu-4090"):
        sample_pool(1, random.Random(1), "gpu-9999")
    assert all(sum(shares.values()) == pytest.approx(1.0) for shares in POOLS.values())
