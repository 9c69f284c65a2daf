"""Timeouts of rpcs: all that may take equally long wait in one queue, with one heap entry for the oldest of them.

A timer for each rpc would be pushed, cancelled and popped for every message pair, though almost none ever fires.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from quiver.errors import DeadlineExceeded
from sim.loop import SimLoop


class Waiting(Protocol):
    """Whoever waits for an answer: a future, or a question whose end is a call."""

    def done(self) -> bool:
        """It has ended."""

    def set_result(self, answer: Any, /) -> None:
        """The answer is here."""

    def set_exception(self, error: Any, /) -> None:
        """There will be none."""


class TimeoutQueue:
    """Those that wait: they fail `timeout_s` after they were added, unless they are done by then. Oldest first."""

    __slots__ = ("waiting", "_loop", "_timeout_s", "_timer")

    def __init__(self, loop: SimLoop, timeout_s: float) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self.waiting: deque[tuple[float, Waiting]] = deque()
        "(when its time is over, who waits)"
        self._timer: Any = None

    def add(self, one: Waiting) -> None:
        """Start its time."""
        when = self._loop.env._now + self._timeout_s
        self.waiting.append((when, one))
        if self._timer is None:
            self._timer = self._loop.call_at(when, self._on_due)

    def _on_due(self) -> None:
        waiting, now = self.waiting, self._loop.env._now
        while waiting and (waiting[0][0] <= now or waiting[0][1].done()):
            expire(waiting.popleft()[1], self._timeout_s)
        self._timer = self._loop.call_at(waiting[0][0], self._on_due) if waiting else None

    def stop(self) -> None:
        """Nothing stays scheduled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Timeouts(dict[float, TimeoutQueue]):
    """A queue for each duration in use."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def __missing__(self, timeout_s: float) -> TimeoutQueue:
        queue = self[timeout_s] = TimeoutQueue(self._loop, timeout_s)
        return queue

    def on_done(self, timeout_s: float) -> None:
        """One that was added with `timeout_s` is done: forget it and what it held up.

        Durations nobody waits for are forgotten too: each may be a different number.
        """
        queue = self.get(timeout_s)
        if queue is not None:
            waiting = queue.waiting
            while waiting:
                if not waiting[0][1].done():
                    return
                waiting.popleft()
            queue.stop()
            del self[timeout_s]


def expire(one: Waiting, timeout_s: float) -> None:
    """Fail what is not done."""
    if not one.done():
        one.set_exception(DeadlineExceeded(f"no answer within {timeout_s:g} s"))
