"""How many receipts a provider hands in under one acknowledgement, with the constants of the public network.

The bench's rows about an aggregator (tests/bench/rows_settlement.py) take their frames' sizes from here.
"""

from __future__ import annotations

import random
from statistics import mean

from quiver.params import Params
from quiver.runtime import Nursery
from quiver.values.frames import SubmitReceipts
from tests.bench.rows_settlement import FRAME_SIZES
from tests.scenarios.stage import Stage

# Money is no limit here; every time is the default's.
PARAMS = Params(channel_deposit_credits=10**9, first_credit=10**9, credit_limit_max=10**9, unproven_credit_max=10**9)


def sizes_of_frames(*, requests_per_s, seconds):
    """One channel's, at Poisson arrivals."""
    stage = Stage(slots=256, params=PARAMS, tokens=10, every_s=0.02, prefill_s=0.1)
    sizes, submit = [], stage.aggregator.service.submit

    async def watched(provider_key, frame):
        assert isinstance(frame, SubmitReceipts)
        sizes.append(len(frame.receipts))
        return await submit(provider_key, frame)

    stage.aggregator.service.submit = watched

    async def story(stage):
        rng = random.Random(1)
        async with Nursery() as nursery:
            for number in range(1, requests_per_s * seconds + 1):
                nursery.start(stage.ask(number))
                await stage.clock.sleep(rng.expovariate(requests_per_s))
        await stage.clock.sleep(2 * PARAMS.receipts_interval_s)

    stage.play(story)
    assert sum(sizes) == requests_per_s * seconds
    return sizes


def test_a_request_a_second_on_a_channel_makes_frames_of_five():
    # receipts_interval_s is 5 s, and a request of less than receipt_every_tokens has one receipt.
    assert 4.0 <= mean(sizes_of_frames(requests_per_s=1, seconds=120)) <= 6.0
    assert FRAME_SIZES[5] == "1 request/s on a channel"


def test_fifty_requests_a_second_make_frames_of_more_than_a_hundred():
    # What came since the newest acknowledgement before the round follows in a small frame of its own: 250 are two frames.
    assert 125.0 <= mean(sizes_of_frames(requests_per_s=50, seconds=20)) <= 250.0
    assert FRAME_SIZES[128] == "50 requests/s on a channel"


def test_a_lone_request_makes_a_frame_of_one():
    assert sizes_of_frames(requests_per_s=1, seconds=1) == [1]
    assert FRAME_SIZES[1] == "a lone request"
