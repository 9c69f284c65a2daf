"""The trace of a run: what its digest covers, and how two runs are told apart."""

from __future__ import annotations

import math

import pytest

from quiver.ids import PeerId, RequestId
from quiver.trace import FirstToken, RequestArrived
from sim.trace import RunTrace, first_divergence

NODE, OTHER, REQUEST = PeerId(b"node"), PeerId(b"other"), RequestId(bytes(16))


class Ping:
    """A message."""


def record(*rows):
    """A trace of frames (time, source, destination, message, payload) and decision events."""
    trace = RunTrace(record=True)
    for row in rows:
        trace.frame(*row) if isinstance(row, tuple) else trace.emit(row)
    return trace


PING = (1.0, 0, 1, Ping(), b"payload")
TOKEN = FirstToken(at_s=2.0, node=NODE, request_id=REQUEST, provider=NODE)
ROWS = (PING, TOKEN)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (((math.nextafter(1.0, 2.0), 0, 1, Ping(), b"payload"), TOKEN),
         "event 0: frame 0->1 Ping at t = 1.0 s against frame 0->1 Ping at t = 1.0000000000000002 s"),
        (((1.0, 2, 1, Ping(), b"payload"), TOKEN),
         "event 0: frame 0->1 Ping at t = 1.0 s against frame 2->1 Ping at t = 1.0 s"),
        (((1.0, 0, 1, TOKEN, b"payload"), TOKEN),
         "event 0: frame 0->1 Ping at t = 1.0 s against frame 0->1 FirstToken at t = 1.0 s"),
        # The second payload has one other bit.
        (((1.0, 0, 1, Ping(), b"payloae"), TOKEN),
         "event 0: frame 0->1 Ping at t = 1.0 s: payload CRC-32 422c6a15 against 352b5a83"),
        ((PING, FirstToken(at_s=2.0, node=NODE, request_id=REQUEST, provider=OTHER)),
         "event 1: FirstToken at t = 2.0 s: provider 6e6f6465 against 6f74686572"),
        ((PING,), "event 1: FirstToken at t = 2.0 s happened in one run only"),
        ((PING, TOKEN, TOKEN), "event 2: FirstToken at t = 2.0 s happened in one run only"),
        ((TOKEN, PING), "event 0: frame 0->1 Ping at t = 1.0 s against FirstToken at t = 2.0 s"),
    ],
)  # fmt: skip
def test_each_part_of_a_row_is_in_the_digest_and_named(rows, message):
    one, other = record(*ROWS), record(*rows)
    assert one.digest() != other.digest()
    assert first_divergence(one, other) == message


def test_equal_runs_have_one_digest_and_no_divergence():
    one, other = record(*ROWS), record(*ROWS)
    assert one.digest() == other.digest()
    assert first_divergence(one, other) is None


def test_the_digest_is_the_same_whether_rows_are_kept_or_watched():
    silent, watched = RunTrace(), RunTrace(record=True)
    seen = []
    watched.subscribe(seen.append)
    for trace in (silent, watched):
        trace.frame(*PING)
        trace.emit(TOKEN)
    assert silent.digest() == watched.digest()
    assert seen == [TOKEN]


def test_a_sink_hears_the_kinds_it_asked_for():
    trace, seen = RunTrace(), []
    trace.subscribe(seen.append, FirstToken)
    arrived = RequestArrived(
        at_s=1.0, node=NODE, request_id=REQUEST, model="m", prompt_tokens_estimate=1, max_tokens=1
    )  # fmt: skip
    for event in (arrived, TOKEN):
        trace.emit(event)
    assert seen == [TOKEN]


def test_only_recorded_runs_can_be_compared():
    with pytest.raises(ValueError, match="record=True"):
        first_divergence(RunTrace(), record())
