"""An asyncio event loop inside a SimPy environment: one heap, one clock, SimPy's own.

Theory of operation. SimPy's heap holds (time, priority, id, entry). An entry is a SimPy event or a `Timer` (an asyncio
timer handle that is itself the entry). A bare call, the cheapest way to deliver a datagram, is the heap's item itself:
(time, priority, id, function, arguments).
`call_soon` appends to a deque that is drained between two heap entries, so coroutines and native SimPy processes
interleave by time, then by order of scheduling. Cancelled timers stay in the heap until they outnumber the live
ones, then the heap is rebuilt.

Rules of this file: no randomness, no real time. Real I/O raises; a wait that nothing can end raises; an error that
no task awaited raises; an instant that does not end raises.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import sys
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from typing import Any, NoReturn

import simpy
from simpy.core import EmptySchedule, Infinity
from simpy.events import NORMAL

from quiver.errors import QuiverError, UsageError
from sim.handles import Ready, Timer

# Ready callbacks run at one instant before it counts as a livelock.
INSTANT_CALLS_MAX = 5_000_000
# The heap is rebuilt when more than this many cancelled timers are more than half of it.
COMPACT_MIN = 1_000
# Length of the heap's items that are bare calls; all others have four parts.
CALL_ITEMS = 5


class Deadlock(QuiverError):
    """Nothing is scheduled and the main task still waits."""


class Livelock(QuiverError):
    """One instant of virtual time went on for `INSTANT_CALLS_MAX` callbacks."""


class UnhandledTaskError(QuiverError):
    """A task failed and nobody awaited it."""


class SimLoop(asyncio.AbstractEventLoop):
    """The asyncio face of the environment."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self._queue: list[Any] = env._queue
        self._numbers = env._eid
        self._ready: collections.deque[Ready] = collections.deque()
        self._cancelled = 0
        self.failures: list[dict[str, Any]] = []

    def time(self) -> float:
        return self.env._now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None) -> Any:
        handle = Ready(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        env = self.env
        # asyncio runs an overdue timer next; virtual time never goes back.
        when = when if when > env._now else env._now
        timer = Timer(when, callback, args, contextvars.copy_context() if context is None else context, self)
        heappush(env._queue, (when, NORMAL, next(env._eid), timer))  # type: ignore[misc]
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_at(self.env._now + delay, callback, *args, context=context)

    def deliver_at(self, when: float, function: Callable[..., Any], *args: Any) -> None:
        """Run `function(*args)` at `when`: for events nobody cancels."""
        heappush(self._queue, (when, NORMAL, next(self._numbers), function, args))

    def _on_timer_cancelled(self) -> None:
        self._cancelled += 1
        queue = self.env._queue
        if self._cancelled > COMPACT_MIN and self._cancelled * 2 > len(queue):
            queue[:] = [entry for entry in queue if not (type(entry[3]) is Timer and entry[3].callback is None)]
            heapify(queue)
            self._cancelled = 0

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **kwargs)

    def wrap(self, simpy_event: simpy.Event) -> asyncio.Future[Any]:
        """Await a native SimPy event from a coroutine: its value, or its exception."""
        future = self.create_future()

        def settle(event: simpy.Event) -> None:
            if event.ok:
                future.done() or future.set_result(event.value)
            else:
                event.defused = True
                future.done() or future.set_exception(event.value)

        if simpy_event.callbacks is None:
            settle(simpy_event)
        else:
            simpy_event.callbacks.append(settle)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def raise_error_of(self, task: asyncio.Task[Any]) -> None:
        """Done-callback for a task that nobody awaits but somebody keeps: asyncio would never tell of its error."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.call_exception_handler({"message": "a background task failed", "exception": error, "task": task})

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(self: SimLoop, *args: Any, **kwargs: Any) -> NoReturn:
        raise UsageError(f"{name}: a simulated node has no sockets, threads or processes; use a port of quiver.ports")

    return refuse


for _name in (
    "call_soon_threadsafe run_in_executor set_default_executor getaddrinfo getnameinfo create_connection create_server "
    "start_tls sendfile connect_accepted_socket create_unix_connection create_unix_server create_datagram_endpoint "
    "connect_read_pipe connect_write_pipe subprocess_shell subprocess_exec add_reader remove_reader add_writer "
    "remove_writer sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto sock_connect "
    "sock_accept sock_sendfile add_signal_handler remove_signal_handler run_forever run_until_complete stop"
).split():
    setattr(SimLoop, _name, _refuse(_name))


def _order_of_naming(task: asyncio.Task[Any]) -> tuple[bool, int, str]:
    """Sorts asyncio's own names, Task-9 and Task-10, by number, before given names: wherever the process's counter is."""
    name = task.get_name()
    return not name.startswith("Task-"), len(name), name


class Environment(simpy.Environment):
    """SimPy's environment with the loop inside."""

    def __init__(self, initial_time: float = 0.0) -> None:
        super().__init__(initial_time)
        self.loop = SimLoop(self)
        self.entries = 0
        "Heap entries processed so far."

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Make our loop the running one; inside a notebook cell the outer loop and task are put back afterwards."""
        outer = events._get_running_loop()
        if outer is self.loop:
            yield
            return
        outer_task = asyncio.current_task(outer) if outer is not None else None
        if outer_task is not None:
            asyncio.tasks._leave_task(outer, outer_task)  # type: ignore[attr-defined]
        hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self.loop)
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._finalize)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(outer)
            if outer_task is not None:
                asyncio.tasks._enter_task(outer, outer_task)  # type: ignore[attr-defined]

    def _finalize(self, generator: Any) -> None:
        self.loop.create_task(generator.aclose())

    def _drain(self) -> None:
        """Run ready callbacks until none is left, then raise what no task awaited."""
        ready, budget = self.loop._ready, INSTANT_CALLS_MAX
        while ready:
            handle = ready.popleft()
            callback = handle.callback
            if callback is not None:
                handle.context.run(callback, *handle.args)
            budget -= 1
            if not budget:
                raise Livelock(f"more than {INSTANT_CALLS_MAX:,} callbacks at t = {self._now} s; last: {callback!r}")
        if self.loop.failures:
            self._raise_failure()

    def _raise_failure(self) -> NoReturn:
        failure = self.loop.failures.pop(0)
        error = failure.get("exception")
        task = failure.get("task") or failure.get("future")
        raise UnhandledTaskError(f"at t = {self._now} s: {failure['message']}: {error!r} in {task!r}") from error

    def _process(self, entry: Any) -> None:
        if type(entry) is Timer:
            callback = entry.callback
            if callback is None:
                self.loop._cancelled -= 1
                return
            entry._loop = None
            entry.callback = None
            entry.context.run(callback, *entry.args)
        else:
            callbacks, entry.callbacks = entry.callbacks, None
            for callback in callbacks:
                callback(entry)
            if not entry._ok and not hasattr(entry, "_defused"):
                raise entry._value

    def peek(self) -> float:
        """Time of the next entry, infinity if there is none."""
        if self.loop._ready:
            return self._now
        queue = self._queue
        while queue and type(queue[0][3]) is Timer and queue[0][3].callback is None:
            heappop(queue)
            self.loop._cancelled -= 1
        return queue[0][0] if queue else Infinity

    def step(self) -> None:
        """Process the ready callbacks and the next heap entry, of either kind."""
        with self._entered():
            had_ready = bool(self.loop._ready)
            self._drain()
            if self.peek() == Infinity:
                if had_ready:
                    return
                raise EmptySchedule
            item: Any = heappop(self._queue)
            self._now = item[0]
            self.entries += 1
            if len(item) == CALL_ITEMS:
                item[3](*item[4])
            else:
                self._process(item[3])
            self._drain()

    def run(self, until: Any = None) -> Any:
        """As SimPy's: until a time, an event, or until nothing is left."""
        with self._entered():
            self._drain()
            return super().run(until)

    def run_coroutine(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run until `main` is done and return its result. Works inside a notebook cell."""
        with self._entered():
            task = self.loop.create_task(main)
            try:
                self._drive(task)
            except BaseException:
                if not task.done():
                    self.close()
                raise
            return task.result()

    def _drive(self, task: asyncio.Task[Any]) -> None:
        queue: list[Any] = self._queue
        process, drain, ready = self._process, self._drain, self.loop._ready
        failures, entries = self.loop.failures, self.entries
        instant, before = -1.0, 0
        try:
            while True:
                if ready or failures:
                    drain()
                    # A task ends in one of its steps, which are ready callbacks.
                    if task.done():
                        return
                if not queue:
                    raise Deadlock(f"at t = {self._now} s nothing is scheduled and the main task waits: {task!r}")
                item = heappop(queue)
                now = item[0]
                entries += 1
                if now != instant:
                    instant, before = now, entries
                    self._now = now
                elif entries - before > INSTANT_CALLS_MAX:
                    raise Livelock(f"more than {INSTANT_CALLS_MAX:,} heap entries at t = {now} s; last: {item[3]!r}")
                if len(item) == CALL_ITEMS:
                    item[3](*item[4])
                else:
                    process(item[3])
        finally:
            self.entries = entries

    def close(self) -> None:
        """Cancel every task that is left and let it clean up; for the end of a run."""
        with self._entered():
            tasks = sorted(asyncio.all_tasks(self.loop), key=_order_of_naming)
            for task in tasks:
                task.cancel()
            try:
                self._drain()
            finally:
                self.loop.failures.clear()
                self._queue.clear()
                self.loop._ready.clear()
