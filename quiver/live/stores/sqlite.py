"""The `Store` port on SQLite: WAL, synchronous=FULL, one writer thread, one fsync for all batches that wait (group commit).

Rules of this file: batches reach the disk in the order of their calls; cancelling a caller does not take its batch back; after a
failed write the store refuses everything until it is opened again, because what the disk holds is no longer known.
A lock file keeps a second process out: two writers of one role's tables would corrupt its channels.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from quiver.errors import Unavailable, UsageError
from quiver.ports import Batch

# Batches that may wait for the writer; a caller beyond that waits for room.
PENDING_MAX = 4096
# Batches in one transaction: bounds how long one fsync group holds the file.
GROUP_MAX = 1024

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS rows (tab TEXT, key BLOB, value BLOB NOT NULL, PRIMARY KEY (tab, key)) WITHOUT ROWID"
)
_PUT = "INSERT INTO rows (tab, key, value) VALUES (?, ?, ?) ON CONFLICT (tab, key) DO UPDATE SET value = excluded.value"
_DELETE = "DELETE FROM rows WHERE tab = ? AND key = ?"
_GET = "SELECT value FROM rows WHERE tab = ? AND key = ?"
_SCAN = "SELECT key, value FROM rows WHERE tab = ? AND key >= ? ORDER BY key"
_SCAN_UNTIL = "SELECT key, value FROM rows WHERE tab = ? AND key >= ? AND key < ? ORDER BY key"

_Waiting = tuple[Batch, "asyncio.Future[None]", asyncio.AbstractEventLoop]


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits survive a power cut. Transactions are begun by hand."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


class SqliteStore:
    """Durable tables of one role in one file. Use it from one event loop."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = self._take_lock()
        try:
            self._writer_connection = connect(self._path)
            self._writer_connection.execute(_SCHEMA)
            self._reader = connect(self._path)
        except sqlite3.Error as error:
            os.close(self._lock_file)
            raise UsageError(
                f"cannot open the store {self._path}: {error}; restore it from a backup or move it away"
            ) from error
        self._pending: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._room = asyncio.Semaphore(PENDING_MAX)
        self._failure: str | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._write_loop, name=f"store {self._path.name}", daemon=True)
        self._thread.start()

    def _take_lock(self) -> int:
        file = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise UsageError(
                f"the store {self._path} is in use by another process; stop that node or choose another path"
            ) from error
        return file

    def get(self, table: str, key: bytes) -> bytes | None:
        """Last committed value."""
        row = self._reader.execute(_GET, (table, key)).fetchone()
        return None if row is None else row[0]

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs under `prefix`, in key order, as of the call."""
        until = _successor(prefix)
        if until is None:
            rows = self._reader.execute(_SCAN, (table, prefix)).fetchall()
        else:
            rows = self._reader.execute(_SCAN_UNTIL, (table, prefix, until)).fetchall()
        return iter(rows)

    async def commit(self, batch: Batch) -> None:
        """Returns once the batch is on disk; `Unavailable` when the disk failed or the store is closed."""
        self._check_usable()
        await self._room.acquire()
        try:
            self._check_usable()
        except Unavailable:
            self._room.release()
            raise
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self._pending.append((tuple(batch), done, loop))
            self._changed.notify()
        await done

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise Unavailable(f"the store {self._path} failed: {self._failure}; free the disk and restart the node")
        if self._closing:
            raise Unavailable(f"the store {self._path} is closed")

    def _write_loop(self) -> None:
        while True:
            with self._changed:
                while not self._pending and not self._closing:
                    self._changed.wait()
                if not self._pending:
                    return
                group = [self._pending.popleft() for _ in range(min(len(self._pending), GROUP_MAX))]
            self._write(group)
            for _, done, loop in group:
                try:
                    loop.call_soon_threadsafe(self._settle, done)
                except RuntimeError:
                    # The loop is gone; the batch is on disk and nobody waits.
                    continue

    def _write(self, group: list[_Waiting]) -> None:
        if self._failure is not None:
            return
        connection = self._writer_connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for batch, _, _ in group:
                for table, key, value in batch:
                    if value is None:
                        connection.execute(_DELETE, (table, key))
                    else:
                        connection.execute(_PUT, (table, key, value))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._failure = str(error)
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _settle(self, done: asyncio.Future[None]) -> None:
        self._room.release()
        if done.done():
            return
        if self._failure is None:
            done.set_result(None)
        else:
            done.set_exception(
                Unavailable(f"the store {self._path} failed: {self._failure}; free the disk and restart the node")
            )

    async def close(self) -> None:
        """Write what waits, then release the file."""
        if self._closing:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._reader.close()
        self._writer_connection.close()
        os.close(self._lock_file)


def _successor(prefix: bytes) -> bytes | None:
    """The smallest key after all keys with this prefix; None when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return None if not trimmed else trimmed[:-1] + bytes((trimmed[-1] + 1,))
