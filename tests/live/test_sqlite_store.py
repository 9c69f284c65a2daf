"""SQLite store: kill -9, a second process, a disk that fails."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from quiver.errors import Unavailable, UsageError
from quiver.live.stores.sqlite import SqliteStore
from tests.live.writing import check_written, write_until_killed


def test_what_was_acknowledged_survives_kill_9_twice_and_batches_are_whole(tmp_path):
    path = tmp_path / "role.db"
    said = write_until_killed(path, first=0, acknowledged=100)
    said += write_until_killed(path, first=1_000_000, acknowledged=100)
    assert len(said) >= 200

    check_written(lambda: SqliteStore(path), said)


def test_a_file_that_is_no_database_is_an_operators_error(tmp_path):
    (tmp_path / "role.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(UsageError, match="cannot open the store"):
        SqliteStore(tmp_path / "role.db")


class FullDisk:
    """A connection whose disk is full after `writes` transactions."""

    def __init__(self, connection, writes):
        self.connection, self.writes = connection, writes

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def execute(self, sql, *args):
        if sql == "COMMIT":
            self.writes -= 1
            if self.writes < 0:
                raise sqlite3.OperationalError("database or disk is full")
        return self.connection.execute(sql, *args)


def test_after_a_failed_write_nothing_is_taken_until_a_restart(tmp_path):
    async def story():
        store = SqliteStore(tmp_path / "role.db")
        store._writer_connection = FullDisk(store._writer_connection, writes=1)
        await store.commit([("t", b"1", b"kept")])
        with pytest.raises(Unavailable, match="disk is full; free the disk and restart"):
            await store.commit([("t", b"2", b"lost")])
        with pytest.raises(Unavailable, match="disk is full"):
            await store.commit([("t", b"3", b"refused")])
        await store.close()
        store = SqliteStore(tmp_path / "role.db")
        assert list(store.scan("t")) == [(b"1", b"kept")]
        await store.commit([("t", b"4", b"kept")])
        await store.close()

    asyncio.run(story())
