"""The waiting side of an rpc: woken when its stream changes, or when its time is up.

A timer for each question would cost more than the question's own bookkeeping. Questions that wait equally long are due in the
order in which they were asked, so each such row has one timer, for its oldest.
"""

from __future__ import annotations

import asyncio

from quiver.errors import DeadlineExceeded


class Question:
    """`await change()` returns at the next `on_change()`, or raises `DeadlineExceeded` after `on_late()`."""

    __slots__ = ("_loop", "_waiter", "_is_late")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._is_late = False

    def on_change(self) -> None:
        """Its stream has a frame, room, an end or a reset."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def on_late(self) -> None:
        """Its time is up."""
        self._is_late = True
        self.on_change()

    async def change(self) -> None:
        """Look again when this returns."""
        self._waiter = self._loop.create_future()
        await self._waiter
        if self._is_late:
            raise DeadlineExceeded("no answer in time")


class _Row:
    """Questions with the same timeout, oldest first -> when each is due."""

    __slots__ = ("due_s", "timer")

    def __init__(self) -> None:
        self.due_s: dict[Question, float] = {}
        self.timer: asyncio.TimerHandle | None = None


class Deadlines:
    """Of all questions under way. A row whose timer finds it empty is forgotten."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rows: dict[float, _Row] = {}

    def add(self, question: Question, timeout_s: float) -> None:
        """Call `question.on_late` in `timeout_s` seconds, unless it is removed before."""
        row = self._rows.get(timeout_s)
        if row is None:
            row = self._rows[timeout_s] = _Row()
        due_s = row.due_s[question] = self._loop.time() + timeout_s
        if row.timer is None:
            row.timer = self._loop.call_at(due_s, self._look, timeout_s, row)

    def remove(self, question: Question, timeout_s: float) -> None:
        """It was answered, or given up. Idempotent."""
        row = self._rows.get(timeout_s)
        if row is not None:
            row.due_s.pop(question, None)

    def _look(self, timeout_s: float, row: _Row) -> None:
        now = self._loop.time()
        for question, due_s in list(row.due_s.items()):
            if due_s > now:
                row.timer = self._loop.call_at(due_s, self._look, timeout_s, row)
                return
            del row.due_s[question]
            question.on_late()
        del self._rows[timeout_s]

    def close(self) -> None:
        """No timer is left; questions under way end with their connections."""
        for row in self._rows.values():
            if row.timer is not None:
                row.timer.cancel()
        self._rows.clear()
