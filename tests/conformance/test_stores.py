"""`StoreSuite` on every store."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3

import psycopg
import pytest
from psycopg import sql

from quiver.live.stores import postgres
from quiver.live.stores.postgres import PostgresStore
from quiver.live.stores.sqlite import SqliteStore
from sim.loop import Environment
from sim.store import MemoryStore
from tests.conformance.store_suite import RealStoreSuite, StoreSuite
from tests.live.postgres import running_server


class MemoryDisk:
    def __init__(self, fsync_s):
        self.store = MemoryStore(fsync_s=fsync_s)

    def run(self, story):
        Environment().run_coroutine(story())

    def open(self):
        self.store.crash()
        return self.store

    async def crash(self, store):
        store.crash()


class TestMemoryStore(StoreSuite):
    @pytest.fixture(params=[0.0, 0.002])
    def disk(self, request):
        return MemoryDisk(request.param)


class FullDisk:
    """A connection whose disk is full."""

    def __init__(self, connection):
        self.connection = connection

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def execute(self, statement, *arguments):
        if statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self.connection.execute(statement, *arguments)


class SqliteDisk:
    def __init__(self, path):
        self.path = path

    def run(self, story):
        asyncio.run(story())

    def open(self):
        return SqliteStore(self.path)

    async def crash(self, store):
        # A killed process gives its lock back; tests/live kills a real one.
        await store.close()

    def break_writes(self, store):
        store._writer_connection = FullDisk(store._writer_connection)

    def set_version(self, number):
        connection = sqlite3.connect(self.path)
        connection.execute(f"PRAGMA user_version={number}")
        connection.close()


class TestSqliteStore(RealStoreSuite):
    @pytest.fixture
    def disk(self, tmp_path):
        return SqliteDisk(tmp_path / "role.db")


class PostgresDisk:
    def __init__(self, url, schema):
        self.url, self.schema = url, schema

    def run(self, story):
        asyncio.run(story())

    def open(self):
        return PostgresStore(self.url, schema=self.schema)

    async def crash(self, store):
        # Without goodbye: the sockets close, as a killed process' do; tests/live kills a real one.
        for connection in (store._writer, store._reader):
            connection.pgconn.finish()
        await store.close()

    def break_writes(self, store):
        with psycopg.connect(self.url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (store._writer.info.backend_pid,))

    def set_version(self, number):
        with psycopg.connect(self.url) as connection:
            place = sql.Identifier(self.schema, "version")
            connection.execute(sql.SQL("UPDATE {} SET version = %s").format(place), (number,))


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


_schemas = itertools.count()


class TestPostgresStore(RealStoreSuite):
    @pytest.fixture
    def disk(self, server, monkeypatch):
        # Whoever waits for a lock here waits for himself.
        monkeypatch.setattr(postgres, "LOCK_WAIT_S", 0.2)
        return PostgresDisk(server.url, f"quiver_test_{next(_schemas)}")
