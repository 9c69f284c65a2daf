"""A simulated disk: the `Store` port in memory, with a modelled fsync that a crash can undo.

Commits become durable in the order they were called, each `fsync_s` after its call; cancelling the caller does not take the
batch back. A crash loses exactly what was not durable yet; what it leaves is what the next life of the node opens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from quiver.errors import Unavailable
from quiver.ports import Batch

# Batches on their way to the modelled disk; a role that gets here waits for nothing, which is a bug.
PENDING_MAX = 100_000


class MemoryStore:
    """Durable tables of one simulated node. `fsync_s` seconds of virtual time make a batch durable; 0 still yields once."""

    def __init__(self, *, fsync_s: float = 0.002) -> None:
        self._fsync_s = fsync_s
        self._tables: dict[str, dict[bytes, bytes]] = {}
        self._pending: deque[tuple[Batch, asyncio.Future[None]]] = deque()
        self._life = 0
        self._closed = False

    def get(self, table: str, key: bytes) -> bytes | None:
        """Last durable value."""
        return self._tables.get(table, {}).get(key)

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Durable pairs under `prefix`, in key order, as of the call."""
        rows = self._tables.get(table, {})
        return iter([(key, rows[key]) for key in sorted(rows) if key.startswith(prefix)])

    async def commit(self, batch: Batch) -> None:
        """Returns once durable; `Unavailable` when the node crashed meanwhile, or the store is closed or flooded."""
        if self._closed:
            raise Unavailable("the store is closed")
        if len(self._pending) >= PENDING_MAX:
            raise Unavailable(f"{PENDING_MAX} batches wait for the disk already")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._pending.append((tuple(batch), done))
        if self._fsync_s > 0:
            loop.call_later(self._fsync_s, self._flush_one, self._life)
        else:
            loop.call_soon(self._flush_one, self._life)
        await done

    def _flush_one(self, life: int) -> None:
        if life != self._life or not self._pending:
            return
        batch, done = self._pending.popleft()
        for table, key, value in batch:
            if value is None:
                self._tables.get(table, {}).pop(key, None)
            else:
                self._tables.setdefault(table, {})[key] = bytes(value)
        if not done.done():
            done.set_result(None)

    def crash(self) -> None:
        """Undo everything that is not durable; who waits for it learns that it is lost. Then the store is open again."""
        lost, self._pending = self._pending, deque()
        self._life += 1
        self._closed = False
        for _, done in lost:
            if not done.done():
                done.set_exception(Unavailable("the node crashed before the batch was durable"))

    async def close(self) -> None:
        """Wait until everything is durable; nothing is taken any more."""
        self._closed = True
        if self._pending:
            tail = self._pending[-1][1]
            finished = asyncio.get_running_loop().create_future()
            tail.add_done_callback(lambda _: finished.done() or finished.set_result(None))
            await finished
