"""A heap of timers: all an engine needs of a loop."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class FakeTimer:
    """What `call_at` gives back."""

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args = args

    def cancel(self) -> None:
        """Never call it."""
        self.callback = None


class FakeLoop:
    """Time moves from timer to timer."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, FakeTimer]] = []
        self._count = 0

    def time(self) -> float:
        """Seconds."""
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> FakeTimer:
        """Call at `when`."""
        assert when >= self.now
        timer = FakeTimer(callback, args)
        self._count += 1
        heappush(self._heap, (when, self._count, timer))
        return timer

    def run(self) -> None:
        """Until no timer is left."""
        while self._heap:
            when, _, timer = heappop(self._heap)
            if timer.callback is not None:
                self.now = when
                timer.callback(*timer.args)
