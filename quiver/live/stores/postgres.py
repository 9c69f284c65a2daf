"""The `Store` port on PostgreSQL: one writer on a thread, one transaction for all batches that wait, one reader for the loop.

`get` and `scan` ask the server and wait for it: roles read when they start and for rare questions, so a round trip costs less
than a copy of everything in memory. Rules of this file: the writer's session holds an advisory lock, so that a second process is
kept out, and a session that lost its lock can't write any more; a lost connection ends the store, as a full disk does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from quiver.errors import UsageError
from quiver.live.stores.group_commit import GroupCommit
from quiver.live.stores.postgres_url import Server
from quiver.live.stores.refusal import StoreInUse
from quiver.live.stores.rows import SCAN_CHUNK_ROWS, Rows, successor
from quiver.live.stores.version import STORE_VERSION, check_version
from quiver.ports import Batch

T = TypeVar("T")
# From this many rows on a COPY into a temporary table and one merge cost less than arrays as arguments.
COPY_ROWS_MIN = 256
# The server lets go of a killed process' lock when it sees its socket closed, which may be after that process' next start.
LOCK_WAIT_S = 5.0
_LOCK_POLL_S = 0.05

_LAYOUT = (
    "CREATE TABLE IF NOT EXISTS {schema}.version (version integer NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {schema}.rows "
    '(tab text COLLATE "C" NOT NULL, key bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (tab, key))',
)
_GET = "SELECT value FROM {schema}.rows WHERE tab = %s AND key = %b"
_SCAN = "SELECT key, value FROM {schema}.rows WHERE tab = %s AND key >= %b ORDER BY key"
_SCAN_UNTIL = "SELECT key, value FROM {schema}.rows WHERE tab = %s AND key >= %b AND key < %b ORDER BY key"
_DELETE = (
    "DELETE FROM {schema}.rows AS old USING unnest(%b::text[], %b::bytea[]) AS gone (tab, key) "
    "WHERE old.tab = gone.tab AND old.key = gone.key"
)
_MERGE = "ON CONFLICT (tab, key) DO UPDATE SET value = excluded.value"
_PUT = "INSERT INTO {schema}.rows SELECT * FROM unnest(%b::text[], %b::bytea[], %b::bytea[]) " + _MERGE
_INCOMING = "CREATE TEMPORARY TABLE incoming (tab text, key bytea, value bytea) ON COMMIT DELETE ROWS"
_COPY = "COPY incoming FROM STDIN (FORMAT binary)"
_PUT_INCOMING = "INSERT INTO {schema}.rows SELECT * FROM incoming " + _MERGE


class PostgresStore:
    """Durable tables of one role in one schema of a database. Use it from one event loop."""

    def __init__(self, url: str, *, schema: str) -> None:
        self._server, self._schema = Server(url), schema
        name = f"{self._server.name} ({schema})"
        self._sql = {text: self._format(text) for text in (_GET, _SCAN, _SCAN_UNTIL, _DELETE, _PUT, _PUT_INCOMING)}
        try:
            self._writer = self._server.connect()
            try:
                self._lock(name)
                check_durable(self._writer, name)
                self._migrate(name)
                self._writer.execute(_INCOMING)
                self._reader = self._server.connect()
            except BaseException:
                self._writer.close()
                raise
        except psycopg.Error as error:
            raise UsageError(
                f"cannot open the store {name}: {self._server.clean(error)}; start the server, or correct its URL"
            ) from None
        self._group = GroupCommit(self._write, name=name, remedy="look after the server")

    def _format(self, text: str) -> str:
        return sql.SQL(text).format(schema=sql.Identifier(self._schema)).as_string()

    def _lock(self, name: str) -> None:
        number = int.from_bytes(hashlib.sha256(self._schema.encode()).digest()[:8], "big", signed=True)
        deadline = time.monotonic() + LOCK_WAIT_S
        while self._writer.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise StoreInUse(f"the store {name} is in use by another process; stop that node or use another key")
            time.sleep(_LOCK_POLL_S)

    def _migrate(self, name: str) -> None:
        """Bring the schema to this version's layout, all or nothing; `UsageError` for one that newer code wrote."""
        with self._writer.transaction():
            found = read_version(self._writer, self._schema)
            if found is not None:
                check_version(found, name)
            if found == STORE_VERSION:
                return
            # Asked for only when it is missing: a schema that an administrator made needs no right to make schemas.
            if self._writer.execute("SELECT to_regnamespace(%s)", (self._schema,)).fetchone() == (None,):
                self._writer.execute(self._format("CREATE SCHEMA {schema}"))
            for statement in _LAYOUT:
                self._writer.execute(self._format(statement))
            self._writer.execute(self._format("INSERT INTO {schema}.version VALUES (%s)"), (STORE_VERSION,))

    def get(self, table: str, key: bytes) -> bytes | None:
        """Last committed value; `Unavailable` without a server."""
        row = self._read(lambda: self._reader.execute(self._sql[_GET], (table, key), binary=True).fetchone())
        return None if row is None else row[0]

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs under `prefix`, in key order, as of the call; `Unavailable` without a server."""
        until = successor(prefix)
        query = self._sql[_SCAN if until is None else _SCAN_UNTIL]
        arguments = (table, prefix) if until is None else (table, prefix, until)
        limited = f"{query} LIMIT {SCAN_CHUNK_ROWS}"
        first = self._read(lambda: self._reader.execute(limited, arguments, binary=True).fetchall())
        return iter(first) if len(first) < SCAN_CHUNK_ROWS else self._read(lambda: self._scan_long(query, arguments))

    def _scan_long(self, query: str, arguments: tuple[Any, ...]) -> Rows:
        """By a cursor on the server, which sees the moment at which it was declared."""
        connection = self._server.connect()
        try:
            connection.execute("BEGIN READ ONLY")
            cursor = connection.cursor(name="scan", binary=True)
            cursor.execute(query, arguments)

            def fetch() -> list[tuple[bytes, bytes]]:
                return self._read(lambda: cursor.fetchmany(SCAN_CHUNK_ROWS))

            def close() -> None:
                with suppress(psycopg.Error), closing(connection):
                    cursor.close()

            return Rows(fetch(), fetch, close)
        except BaseException:
            connection.close()
            raise

    def _read(self, ask: Callable[[], T]) -> T:
        self._group.check_usable()
        try:
            return ask()
        except psycopg.Error as error:
            raise self._group.fail(self._server.clean(error)) from None

    async def commit(self, batch: Batch) -> None:
        """Returns once the server says the batch is on disk; `Unavailable` when it failed or the store is closed."""
        await self._group.commit(batch)

    def _write(self, batches: Sequence[Batch]) -> None:
        # One statement can't write a row twice: the last write wins here.
        rows = {(table, key): value for table, key, value in chain.from_iterable(batches)}
        put = [(*place, value) for place, value in rows.items() if value is not None]
        gone = [place for place, value in rows.items() if value is None]
        try:
            if len(put) < COPY_ROWS_MIN and not gone:
                if put:
                    self._writer.execute(self._sql[_PUT], _columns(put))
                return
            with self._writer.transaction():
                if gone:
                    self._writer.execute(self._sql[_DELETE], _columns(gone))
                if len(put) >= COPY_ROWS_MIN:
                    self._copy(put)
                elif put:
                    self._writer.execute(self._sql[_PUT], _columns(put))
        except psycopg.Error as error:
            raise RuntimeError(self._server.clean(error)) from None

    def _copy(self, put: Sequence[tuple[str, bytes, bytes]]) -> None:
        with self._writer.cursor() as cursor:
            with cursor.copy(_COPY) as copy:
                copy.set_types(("text", "bytea", "bytea"))
                for row in put:
                    copy.write_row(row)
            cursor.execute(self._sql[_PUT_INCOMING])

    async def close(self) -> None:
        """Write what waits, then leave the server."""
        if not await self._group.close():
            return
        self._reader.close()
        self._writer.close()


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def check_durable(connection: psycopg.Connection[Any], name: str) -> None:
    """`UsageError` for a server that does not wait for its disk; a session's own commits are made to wait."""
    if connection.execute("SHOW fsync").fetchone() != ("on",):
        raise UsageError(
            f"the store {name}: its server has fsync off, so a power cut would lose acknowledged receipts; turn it on"
        )
    if connection.execute("SHOW synchronous_commit").fetchone() == ("off",):
        connection.execute("SET synchronous_commit = on")


def read_version(connection: psycopg.Connection[Any], schema: str) -> int | None:
    """Version of a schema's store; None where there is none yet."""
    place = sql.Identifier(schema, "version")
    if connection.execute("SELECT to_regclass(%s)", (place.as_string(),)).fetchone() == (None,):
        return None
    row = connection.execute(sql.SQL("SELECT max(version) FROM {}").format(place)).fetchone()
    return None if row is None else row[0]
