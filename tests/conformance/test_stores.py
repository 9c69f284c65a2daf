"""`StoreSuite` on every store."""

from __future__ import annotations

import asyncio

import pytest

from quiver.live.stores.sqlite import SqliteStore
from sim.loop import Environment
from sim.store import MemoryStore
from tests.conformance.store_suite import StoreSuite


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


class TestSqliteStore(StoreSuite):
    @pytest.fixture
    def disk(self, tmp_path):
        return SqliteDisk(tmp_path / "role.db")
