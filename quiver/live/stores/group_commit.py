"""One writer thread for a store: all batches that wait go to the disk together and are answered together (group commit).

Rules of this file: batches reach the disk in the order of their calls; cancelling a caller does not take its batch back; after a
failed write everything is refused until the store is opened again, because what the disk holds is no longer known.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence

from quiver.errors import Unavailable
from quiver.ports import Batch

# Batches that may wait for the writer; a caller beyond that waits for room.
PENDING_MAX = 4096
# Rows after which no further batch joins a transaction: bounds how long one group holds the disk.
GROUP_ROWS_MAX = 1 << 15

Write = Callable[[Sequence[Batch]], None]
"""Makes batches durable, all or nothing, on the writer's thread; whatever it raises ends the store."""
_Waiting = tuple[Batch, "asyncio.Future[None]"]


class GroupCommit:
    """Calls `write` with what waits. `name` is the store as an operator knows it, `remedy` what he does when it fails."""

    def __init__(self, write: Write, *, name: str, remedy: str) -> None:
        self._write, self._name, self._remedy = write, name, remedy
        self._pending: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._room = asyncio.Semaphore(PENDING_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: str | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"store {name}", daemon=True)
        self._thread.start()

    async def commit(self, batch: Batch) -> None:
        """Returns once the batch is on disk; `Unavailable` when a write failed or the store is closed."""
        self.check_usable()
        await self._room.acquire()
        try:
            self.check_usable()
        except Unavailable:
            self._room.release()
            raise
        self._loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            self._pending.append((tuple(batch), done))
            self._changed.notify()
        await done

    def check_usable(self) -> None:
        """`Unavailable` once a write failed or the store was closed."""
        if self._failure is not None:
            raise self._failed(self._failure)
        if self._closing:
            raise Unavailable(f"the store {self._name} is closed")

    def fail(self, reason: str) -> Unavailable:
        """Take nothing any more; the error to raise."""
        self._failure = self._failure or reason
        return self._failed(self._failure)

    def _failed(self, reason: str) -> Unavailable:
        return Unavailable(f"the store {self._name} failed: {reason}; {self._remedy} and restart the node")

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._pending and not self._closing:
                    self._changed.wait()
                if not self._pending:
                    return
                group = self._take_group()
            if self._failure is None:
                try:
                    self._write([batch for batch, _ in group])
                except Exception as error:
                    # Not the driver's errors alone: a writer that dies of anything would leave its callers waiting for ever.
                    self._failure = " ".join(str(error).split()) or type(error).__name__
            loop, failure = self._loop, self._failure
            assert loop is not None, "what waits was given by a loop"
            try:
                loop.call_soon_threadsafe(self._settle, group, failure)
            except RuntimeError:
                # The loop is gone; what was written is on disk and nobody waits.
                continue

    def _take_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        rows = 0
        while self._pending and rows < GROUP_ROWS_MAX:
            group.append(self._pending.popleft())
            # An empty batch is not for nothing: it takes its turn.
            rows += 1 + len(group[-1][0])
        return group

    def _settle(self, group: list[_Waiting], failure: str | None) -> None:
        for _, done in group:
            self._room.release()
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(self._failed(failure))

    async def close(self) -> bool:
        """Write what waits and end the thread; False if that was done before."""
        if self._closing:
            return False
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        return True
