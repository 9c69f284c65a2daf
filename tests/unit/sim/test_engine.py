"""Timings of the continuous-batching engine, by hand and against queueing theory."""

from __future__ import annotations

import random

import pytest

from quiver.errors import Busy, UsageError
from sim import engine as engine_module
from sim.engine import Engine, Job, JobState
from sim.hardware import HardwareProfile
from tests.unit.sim.timer_loop import FakeLoop


def make_profile(**changes: float) -> HardwareProfile:
    values: dict[str, float] = {
        "prefill_tps": 1000.0, "quadratic_s": 0.0, "decode_tps": 10.0, "context_s": 0.0, "alpha": 0.5, "load_s": 3.0,
        "sigma": 0.0, "slots": 4,
    }  # fmt: skip
    return HardwareProfile(name="by hand", source="test", **(values | changes))  # type: ignore[arg-type]


class Client:
    """Records when tokens came."""

    def __init__(self, loop: FakeLoop, engine: Engine) -> None:
        self.loop, self.engine = loop, engine
        self.times: dict[str, list[float]] = {}
        self.jobs: dict[str, Job] = {}

    def ask(self, name: str, at: float, prompt: int, output: int, **options: float) -> None:
        def on_tokens(tokens: int, done: bool) -> None:
            self.times[name] += [self.loop.now] * tokens
            self.engine.validate()

        def start() -> None:
            self.times[name] = []
            self.jobs[name] = self.engine.submit(
                prompt_tokens=prompt, output_tokens=output, on_tokens=on_tokens, **options
            )  # type: ignore[arg-type]
            self.engine.validate()

        self.loop.call_at(at, start)

    def cancel(self, name: str, at: float) -> None:
        def stop() -> None:
            self.engine.cancel(self.jobs[name])
            self.engine.cancel(self.jobs[name])

        self.loop.call_at(at, stop)


def make(profile: HardwareProfile | None = None, slots: int | None = None) -> tuple[FakeLoop, Client]:
    loop = FakeLoop()
    return loop, Client(loop, Engine(loop, profile or make_profile(), slots=slots))


def test_one_request_pays_prefill_then_a_step_a_token():
    loop, client = make()
    client.ask("a", 0.0, prompt=100, output=3)
    loop.run()
    assert client.times["a"] == pytest.approx([0.2, 0.3, 0.4])


def test_a_prefill_rides_on_the_steps_of_the_others_and_then_shares_them():
    loop, client = make()
    client.ask("a", 0.0, prompt=100, output=5)
    # Asked inside the step 0.2-0.3: batches of 512 and 488 ride on the next two steps, then two streams share 0.15 s steps.
    client.ask("b", 0.25, prompt=1000, output=2)
    loop.run()
    assert client.times["a"] == pytest.approx([0.2, 0.3, 0.912, 1.5, 1.65])
    assert client.times["b"] == pytest.approx([1.65, 1.75])


def test_a_step_grows_with_the_mean_context():
    loop, client = make(make_profile(context_s=0.001))
    client.ask("a", 0.0, prompt=100, output=3)
    loop.run()
    assert client.times["a"] == pytest.approx([0.3, 0.501, 0.703])


def test_prefill_batches_add_up_to_the_quadratic_formula():
    profile = make_profile(quadratic_s=1e-6)
    loop, client = make(profile)
    client.ask("a", 0.0, prompt=1300, output=1)
    loop.run()
    # 1300 / 1000 + 1e-6 * 1300^2 = 2.99, and one step of 0.1
    assert profile.prefill_s(1300) == pytest.approx(2.99)
    assert client.times["a"] == pytest.approx([3.09])


def test_a_request_without_slot_waits_for_the_first_to_end():
    loop, client = make(slots=1)
    client.ask("a", 0.0, prompt=100, output=2)
    client.ask("b", 0.0, prompt=100, output=1)
    loop.run()
    assert client.times == {"a": pytest.approx([0.2, 0.3]), "b": pytest.approx([0.5])}


def test_cancelling_frees_the_slot_at_the_end_of_the_step():
    loop, client = make(slots=1)
    client.ask("a", 0.0, prompt=100, output=100)
    client.ask("b", 0.0, prompt=100, output=1)
    client.cancel("a", 0.25)
    loop.run()
    assert client.times == {"a": pytest.approx([0.2]), "b": pytest.approx([0.5])}
    assert client.jobs["a"].state is JobState.CANCELLED
    assert client.engine.running == client.engine.waiting == 0


def test_cancelling_during_prefill_and_while_waiting_leaves_no_trace():
    loop, client = make(slots=1)
    client.ask("a", 0.0, prompt=2000, output=1)
    client.ask("b", 0.0, prompt=100, output=1)
    client.ask("c", 0.0, prompt=100, output=1)
    client.cancel("a", 0.6)
    client.cancel("b", 0.7)
    loop.run()
    # The second batch of a ends at 1.024; then c: 0.1 prefill and 0.1 step.
    assert client.times == {"a": [], "b": [], "c": pytest.approx([1.224])}


def test_coalesced_chunks_bring_the_first_token_alone_and_the_rest_in_groups():
    loop, client = make()
    client.ask("a", 0.0, prompt=100, output=6, chunk_tokens=3)
    loop.run()
    assert client.times["a"] == pytest.approx([0.2, 0.5, 0.5, 0.5, 0.7, 0.7])


def test_a_cached_prefix_is_not_prefilled_but_its_last_token_is():
    loop, client = make()
    client.ask("a", 0.0, prompt=100, output=1, cached_tokens=100)
    client.ask("b", 1.0, prompt=100, output=1, cached_tokens=60)
    loop.run()
    assert client.times == {"a": pytest.approx([0.101]), "b": pytest.approx([1.14])}


def test_noise_scales_prefill_and_the_share_of_a_step():
    loop, client = make()
    client.ask("a", 0.0, prompt=100, output=2, noise=2.0)
    client.ask("b", 1.0, prompt=100, output=1)
    loop.run()
    assert client.times["a"] == pytest.approx([0.4, 0.6])
    assert client.times["b"] == pytest.approx([1.2])


def test_waiting_requests_have_a_limit(monkeypatch):
    monkeypatch.setattr(engine_module, "WAITING_MAX", 1)
    loop, client = make(slots=1)
    submit = client.engine.submit
    for _ in range(2):
        submit(prompt_tokens=1, output_tokens=1, on_tokens=lambda tokens, done: None)
    with pytest.raises(Busy):
        submit(prompt_tokens=1, output_tokens=1, on_tokens=lambda tokens, done: None)


def test_a_job_without_tokens_is_refused():
    _, client = make()
    with pytest.raises(UsageError):
        client.engine.submit(prompt_tokens=1, output_tokens=0, on_tokens=lambda tokens, done: None)
    with pytest.raises(UsageError):
        Engine(FakeLoop(), make_profile(), slots=0)


def test_mean_wait_of_poisson_arrivals_matches_pollaczek_khinchine():
    # One slot and constant service (0.1 s prefill, one 0.1 s step) is M/D/1: W = rho s / (2 (1 - rho)) = 0.15 s at rho 0.6.
    loop, client = make(slots=1)
    rng, at, asked = random.Random(5), 0.0, []
    for index in range(4000):
        at += rng.expovariate(3.0)
        asked.append(at)
        client.ask(str(index), at, prompt=100, output=1)
    loop.run()
    waits = [client.times[str(index)][0] - at - 0.2 for index, at in enumerate(asked)]
    assert sum(waits) / len(waits) == pytest.approx(0.15, rel=0.1)
