"""A world as a whole: rounds that overlap, labels of what was measured, and what it refuses to build."""

from __future__ import annotations

import pandas as pd
import pytest

from quiver.errors import UsageError
from quiver.runtime import Nursery
from sim import Scenario, World
from sim.clients import DEPARTED_MAX, Asked
from sim.rules import DROP
from sim.workload import Workload

TOUR = Scenario.named("tour").replace(
    providers=5, duration_s=10.0, topology="synthetic", workload="azure-conv-synthetic"
)


class Impatient(World):
    """Every provider is told to settle again and again, twice at the same moment, beside its own rounds."""

    async def _settle(self, clock):
        for _ in range(80):  # a second each: past the end of the epoch
            async with Nursery() as nursery:
                for node in (*self.providers, *self.providers):
                    nursery.start(node.settler.settle())
            await clock.sleep(1.0)
        await super()._settle(clock)


def test_settlement_rounds_that_overlap_share_no_work():
    summary = Impatient(TOUR, seed=1).run(progress=False).summary
    assert summary["credits_owed"] == summary["credits_paid"] > 0
    assert summary["receipts"] == summary["receipts_ingested"]


def run_prefixes(blocks: list[str]) -> float:
    """p50 of TTFT of ten long prompts, one at a time, on one machine."""
    frame = pd.DataFrame(
        {"arrival_s": [20.0 * n for n in range(10)], "input_tokens": 4096, "output_tokens": 4, "block_hashes": blocks}
    )
    workload = Workload.from_frame(frame, span_s=200.0)
    scenario = TOUR.replace(
        workload=workload,
        providers=1,
        gateways=1,
        duration_s=200.0,
        arrivals=1.0,
        hardware="gpu-3090",
        discovery="given",
    )
    summary = World(scenario, seed=1).run(progress=False).summary
    assert summary["completed"] == 10
    return summary["ttft_s"]["p50"]


def test_shared_prefixes_of_the_workload_reach_the_engines_cache():
    shared = run_prefixes(["1 2 3 4 5 6 7 8"] * 10)
    apart = run_prefixes([f"{8 * n} {8 * n + 1}" for n in range(10)])
    # Prefill of 4,096 tokens on a 3090: 4096 / 4200 + 1.9e-8 * 4096^2 = 1.29 s; all eight blocks of 512 are cached.
    assert apart - shared == pytest.approx(1.29, abs=0.1)


def test_a_world_whose_gateways_find_nobody_says_so():
    class Cut:
        """Gateway and aggregator, nodes 5 to 7, are cut off from the providers."""

        def delay_s(self, src, dst, size_bytes, now):
            return DROP if (src < 5) != (dst < 5) else 0.0

    with pytest.raises(UsageError, match=r"gateway-0, gateway-1 found no provider within 120 s .*links that are cut"):
        World(TOUR.replace(links=Cut, discovery="given"), seed=1).run(progress=False)


def test_a_lone_provider_is_found_by_the_record_it_keeps_itself():
    summary = World(Scenario.named("tour").replace(providers=1, gateways=1), seed=1).run(progress=False).summary
    assert summary["completed"] > 0 and summary["completed"] == summary["requests"] - summary["rejected"]


def test_an_engine_may_begin_with_a_request_whose_client_has_just_left():
    asked = Asked()
    asked.note(b"first", 10, (b"block",))
    asked.forget(b"first")
    assert (asked.output_tokens(b"first"), asked.prefix_blocks(b"first")) == (10, (b"block",))
    for number in range(DEPARTED_MAX):
        asked.note(number.to_bytes(4, "big"), 1, ())
        asked.forget(number.to_bytes(4, "big"))
    with pytest.raises(KeyError):
        asked.output_tokens(b"first")
