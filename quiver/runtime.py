"""What a role is given: the ports in one bundle, and the few concurrency tools protocol code may use.

Works on any asyncio loop. Order is always explicit: tasks are cancelled and awaited in the order they were started.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from quiver.errors import DeadlineExceeded, UsageError
from quiver.params import Params
from quiver.ports import Clock, Ledger, Signer, Store, Trace, Transport, Verifier


class Deadline:
    """`async with Deadline(seconds)`: the body raises `DeadlineExceeded` when it takes longer. Serves `Clock.deadline`."""

    __slots__ = ("_seconds", "_loop", "_task", "_timer", "_expired", "_cancelling")

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`loop` is the running one, for a caller that knows it: asking asyncio costs a system call each time."""
        self._seconds = seconds
        self._loop = loop
        self._expired = False

    async def __aenter__(self) -> None:
        loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise UsageError("a deadline needs a task around it")
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = loop.call_later(max(self._seconds, 0.0), self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # Only our own cancellation becomes an error; one from outside goes on.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeadlineExceeded(f"not done within {self._seconds:g} s") from error


class Sleeper(Protocol):
    """Who sets an alarm."""

    def on_alarm(self) -> None:
        """It rang."""


class Alarms:
    """Deadlines that move, of many who share a stream: one timer for the earliest, which looks again when it fires too early.

    Almost none ever rings, and a timer for each would be most of a loop's heap. Who cancels is let go of at once.
    """

    __slots__ = ("_loop", "_due_s", "_timer", "_timer_s")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due_s: dict[Sleeper, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def set(self, sleeper: Sleeper, seconds: float) -> None:
        """Wake `sleeper` in `seconds`, unless it sets or cancels its alarm before."""
        self._due_s[sleeper] = due_s = self._loop.time() + max(seconds, 0.0)
        if due_s < self._timer_s:
            self._arm(due_s)

    def cancel(self, sleeper: Sleeper) -> None:
        """Never wake it."""
        self._due_s.pop(sleeper, None)

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        self._timer, self._timer_s = None, math.inf
        now = self._loop.time()
        for sleeper in [one for one, due_s in self._due_s.items() if due_s <= now]:
            # One that rings may set or cancel another's.
            if self._due_s.get(sleeper, math.inf) <= now:
                del self._due_s[sleeper]
                sleeper.on_alarm()
        earliest_s = min(self._due_s.values(), default=math.inf)
        if earliest_s < self._timer_s:
            self._arm(earliest_s)


class Nursery:
    """Tasks that end with the block. The first failure cancels the others, in the order they were started."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._failure: BaseException | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._emptied: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    def start(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run `coroutine` beside the block. Finished tasks are forgotten, so a long-lived nursery stays small."""
        task = self._loop.create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not self._tasks and self._emptied is not None:
            self._emptied.done() or self._emptied.set_result(None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._failure is None:
            self._failure = error
            self.cancel()
            if self._owner is not None and not self._interrupted:
                self._interrupted = True
                self._owner.cancel()

    def cancel(self) -> None:
        """Cancel every task, first started first."""
        for task in list(self._tasks):
            task.cancel()

    def __len__(self) -> int:
        return len(self._tasks)

    async def __aenter__(self) -> Nursery:
        self._owner = asyncio.current_task(self._loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner, self._owner = self._owner, None
        if self._interrupted and owner is not None:
            owner.uncancel()
        if error is not None:
            self.cancel()
        while self._tasks:
            # Not `gather`: since Python 3.12 it does not pause for tasks that are done and not yet forgotten.
            self._emptied = self._loop.create_future()
            try:
                await self._emptied
            except asyncio.CancelledError:
                self.cancel()
                if error is None and self._failure is None:
                    error = asyncio.CancelledError()
        if self._failure is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            raise self._failure
        if kind is None and error is not None:
            raise error


async def race(*coroutines: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
    """(position, result) of the first to finish; the lower position wins a tie. The others are cancelled and awaited in order."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(coroutine) for coroutine in coroutines]
    first: asyncio.Future[None] = loop.create_future()
    for task in tasks:
        task.add_done_callback(lambda _: first.done() or first.set_result(None))
    try:
        await first
    finally:
        for task in tasks:
            task.cancel()
        # Only those that run: with tasks that are done, `gather` pauses before Python 3.12 and not since.
        await asyncio.gather(*[task for task in tasks if not task.done()], return_exceptions=True)
    for position, task in enumerate(tasks):
        if not task.cancelled():
            return position, task.result()
    raise asyncio.CancelledError


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The ports of one node."""

    clock: Clock
    transport: Transport
    store: Store
    signer: Signer
    verifier: Verifier
    ledger: Ledger
    trace: Trace
    rng: random.Random
    params: Params
