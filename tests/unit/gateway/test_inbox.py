"""Frames between the shared reader and one client."""

from __future__ import annotations

from quiver.gateway.inbox import RequestInbox
from quiver.ids import RequestId
from quiver.values.frames import End

FRAME = End(
    request_id=RequestId(bytes(16)), done_reason="stop", prompt_tokens=0, completion_tokens=0, chunks=0, queue_s=0
)


def test_a_full_inbox_says_no_but_the_last_frame_always_has_a_place():
    inbox = RequestInbox(frames_max=1, request_hash=bytes(32))
    assert inbox.put(FRAME) and not inbox.put(FRAME)
    inbox.ended = True
    assert inbox.put(FRAME)


def test_a_cancelled_inbox_takes_everything_and_keeps_nothing():
    inbox = RequestInbox(frames_max=1, request_hash=bytes(32))
    inbox.cancelled = True
    assert [inbox.put(FRAME) for _ in range(3)] == [True] * 3 and not inbox._frames
