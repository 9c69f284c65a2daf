"""What every `Store` must do. Subclass `StoreSuite` and give it a `disk` fixture.

`disk.run(story)` runs `await story()` on the store's own loop; `disk.open()` opens the store, as a new process would;
`await disk.crash(store)` ends its process without goodbye.
"""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import Unavailable


class StoreSuite:
    """Behaviour of the port, by name."""

    def test_what_was_committed_is_read_back(self, disk):
        async def story():
            store = disk.open()
            assert store.get("t", b"k") is None
            await store.commit([("t", b"k", b"one"), ("u", b"k", b"other table")])
            assert (store.get("t", b"k"), store.get("u", b"k")) == (b"one", b"other table")
            await store.commit([("t", b"k", b"two")])
            assert store.get("t", b"k") == b"two"
            await store.close()

        disk.run(story)

    def test_none_deletes_and_the_last_write_of_a_batch_wins(self, disk):
        async def story():
            store = disk.open()
            await store.commit(
                [("t", b"a", b"1"), ("t", b"b", b"1"), ("t", b"b", b"2"), ("t", b"a", None), ("t", b"no", None)]
            )
            assert list(store.scan("t")) == [(b"b", b"2")]
            await store.close()

        disk.run(story)

    def test_a_scan_is_in_key_order_and_keeps_to_its_prefix(self, disk):
        async def story():
            store = disk.open()
            keys = [b"", b"a", b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff", b"\xff\xff\x01"]
            await store.commit([("t", key, b"v" + key) for key in reversed(keys)])
            assert [key for key, _ in store.scan("t")] == sorted(keys)
            assert [key for key, _ in store.scan("t", b"a")] == [b"a", b"a\x00", b"a\xff", b"a\xff\xff"]
            assert [key for key, _ in store.scan("t", b"a\xff")] == [b"a\xff", b"a\xff\xff"]
            assert [key for key, _ in store.scan("t", b"\xff\xff")] == [b"\xff\xff", b"\xff\xff\x01"]
            assert list(store.scan("nothing")) == []
            await store.close()

        disk.run(story)

    def test_a_scan_shows_the_moment_of_its_call(self, disk):
        async def story():
            store = disk.open()
            await store.commit([("t", b"a", b"1"), ("t", b"c", b"1")])
            rows = store.scan("t")
            assert next(rows) == (b"a", b"1")
            await store.commit([("t", b"b", b"2"), ("t", b"c", b"2")])
            assert list(rows) == [(b"c", b"1")]
            await store.close()

        disk.run(story)

    def test_commits_become_durable_in_the_order_of_their_calls(self, disk):
        async def story():
            store = disk.open()
            loop = asyncio.get_running_loop()
            order = []

            async def write(n):
                await store.commit([("t", b"last", bytes((n,)))])
                order.append(n)

            await asyncio.gather(*(loop.create_task(write(n)) for n in range(50)))
            assert order == list(range(50))
            assert store.get("t", b"last") == bytes((49,))
            await store.close()

        disk.run(story)

    def test_cancelling_the_caller_does_not_take_the_batch_back(self, disk):
        async def story():
            store = disk.open()
            task = asyncio.get_running_loop().create_task(store.commit([("t", b"first", b"1")]))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.commit([("t", b"second", b"2")])
            assert list(store.scan("t")) == [(b"first", b"1"), (b"second", b"2")]
            await store.close()

        disk.run(story)

    def test_an_empty_batch_waits_for_those_before_it(self, disk):
        async def story():
            store = disk.open()
            task = asyncio.get_running_loop().create_task(store.commit([("t", b"k", b"1")]))
            await asyncio.sleep(0)
            await store.commit([])
            assert store.get("t", b"k") == b"1"
            await task
            await store.close()

        disk.run(story)

    def test_committed_batches_survive_a_crash_and_a_clean_end(self, disk):
        async def story():
            store = disk.open()
            await store.commit([("t", bytes((n,)), b"kept") for n in range(100)])
            await disk.crash(store)
            store = disk.open()
            assert len(list(store.scan("t"))) == 100
            await store.commit([("t", b"more", b"1")])
            await store.close()
            store = disk.open()
            assert len(list(store.scan("t"))) == 101
            await store.close()

        disk.run(story)

    def test_a_closed_store_refuses(self, disk):
        async def story():
            store = disk.open()
            await store.close()
            with pytest.raises(Unavailable):
                await store.commit([("t", b"k", b"1")])

        disk.run(story)
