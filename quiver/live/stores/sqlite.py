"""The `Store` port on SQLite: WAL, synchronous=FULL, one writer thread, one fsync for all batches that wait.

A lock file keeps a second process out: two writers of one role's tables would corrupt its channels.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from quiver.errors import UsageError
from quiver.live.private_files import FILE_MODE, make_database, make_folder
from quiver.live.stores.group_commit import GroupCommit
from quiver.live.stores.refusal import StoreInUse
from quiver.live.stores.rows import SCAN_CHUNK_ROWS, Rows, successor
from quiver.live.stores.version import STORE_VERSION, check_version
from quiver.ports import Batch

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS rows (tab TEXT, key BLOB, value BLOB NOT NULL, PRIMARY KEY (tab, key)) WITHOUT ROWID"
)
_PUT = "INSERT INTO rows (tab, key, value) VALUES (?, ?, ?) ON CONFLICT (tab, key) DO UPDATE SET value = excluded.value"
_DELETE = "DELETE FROM rows WHERE tab = ? AND key = ?"
_GET = "SELECT value FROM rows WHERE tab = ? AND key = ?"
_SCAN = "SELECT key, value FROM rows WHERE tab = ? AND key >= ? ORDER BY key"
_SCAN_UNTIL = "SELECT key, value FROM rows WHERE tab = ? AND key >= ? AND key < ? ORDER BY key"


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits survive a power cut. Transactions are begun by hand."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Bring the file to this version's layout, all or nothing; `UsageError` for one that newer code wrote."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        check_version(found, name)
        connection.execute(_SCHEMA)
        connection.execute(f"PRAGMA user_version={STORE_VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class SqliteStore:
    """Durable tables of one role in one file. Use it from one event loop."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        make_folder(self._path.parent)
        self._lock_file = self._take_lock()
        try:
            self._open()
        except BaseException:
            os.close(self._lock_file)
            raise
        self._group = GroupCommit(self._write, name=str(self._path), remedy="free the disk")

    def _open(self) -> None:
        make_database(self._path)
        try:
            self._writer_connection = connect(self._path)
            try:
                migrate(self._writer_connection, str(self._path))
                self._reader = connect(self._path)
            except BaseException:
                self._writer_connection.close()
                raise
        except sqlite3.Error as error:
            raise UsageError(
                f"cannot open the store {self._path}: {error}; restore it from a backup or move it away"
            ) from error

    def _take_lock(self) -> int:
        file = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR, FILE_MODE)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise StoreInUse(
                f"the store {self._path} is in use by another process; stop that node or choose another path"
            ) from error
        return file

    def get(self, table: str, key: bytes) -> bytes | None:
        """Last committed value."""
        row = self._reader.execute(_GET, (table, key)).fetchone()
        return None if row is None else row[0]

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs under `prefix`, in key order, as of the call."""
        until = successor(prefix)
        connection = self._reader
        if until is None:
            cursor = connection.execute(_SCAN, (table, prefix))
        else:
            cursor = connection.execute(_SCAN_UNTIL, (table, prefix, until))
        first = cursor.fetchmany(SCAN_CHUNK_ROWS)
        if len(first) < SCAN_CHUNK_ROWS:
            cursor.close()
            return iter(first)
        # While its statement is not through, the connection sees this moment alone: it goes with the scan.
        self._reader = connect(self._path)
        return Rows(first, lambda: cursor.fetchmany(SCAN_CHUNK_ROWS), connection.close)

    async def commit(self, batch: Batch) -> None:
        """Returns once the batch is on disk; `Unavailable` when the disk failed or the store is closed."""
        await self._group.commit(batch)

    def _write(self, batches: Sequence[Batch]) -> None:
        connection = self._writer_connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for table, key, value in chain.from_iterable(batches):
                if value is None:
                    connection.execute(_DELETE, (table, key))
                else:
                    connection.execute(_PUT, (table, key, value))
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    async def close(self) -> None:
        """Write what waits, then release the file."""
        if not await self._group.close():
            return
        self._reader.close()
        self._writer_connection.close()
        os.close(self._lock_file)
