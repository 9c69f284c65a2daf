"""SQLite store: kill -9, a second process, a disk that fails."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from quiver.errors import Unavailable, UsageError
from quiver.live.stores.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]


def write_until_killed(path, *, start, acknowledged):
    """Numbers the writer said were durable, before it was killed with SIGKILL."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.live.store_writer", str(path), str(start)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    with writer.stdout:
        said = [int(writer.stdout.readline()) for _ in range(acknowledged)]
        os.kill(writer.pid, signal.SIGKILL)
        # What was in the pipe when it died was durable as well; its last line may be cut.
        said += [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert writer.wait() == -signal.SIGKILL
    return said


def test_what_was_acknowledged_survives_kill_9_twice_and_batches_are_whole(tmp_path):
    path = tmp_path / "role.db"
    said = write_until_killed(path, start=0, acknowledged=100)
    said += write_until_killed(path, start=1_000_000, acknowledged=100)
    assert len(said) >= 200

    async def look():
        store = SqliteStore(path)
        left = [int.from_bytes(key, "big") for key, _ in store.scan("left")]
        right = [int.from_bytes(key, "big") for key, _ in store.scan("right")]
        await store.commit([("left", b"alive", b"1")])
        await store.close()
        return left, right

    left, right = asyncio.run(look())
    assert left == right
    assert [number for number in said if number not in left] == []
    # Commits keep their order: nothing durable comes after something lost.
    for start in (0, 1_000_000):
        numbers = [number for number in left if start <= number < start + 1_000_000]
        assert numbers == list(range(start, start + len(numbers)))


def test_a_second_opener_is_told_to_stop(tmp_path):
    async def story():
        store = SqliteStore(tmp_path / "role.db")
        with pytest.raises(UsageError, match="in use by another process"):
            SqliteStore(tmp_path / "role.db")
        await store.close()
        await SqliteStore(tmp_path / "role.db").close()

    asyncio.run(story())


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
