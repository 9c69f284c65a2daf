"""What every `Store` must do. Subclass `StoreSuite` and give it a `disk` fixture.

`disk.run(story)` runs `await story()` on the store's own loop; `disk.open()` opens the store, as a new process would;
`await disk.crash(store)` ends its process without goodbye. Stores of real machines are also held to `RealStoreSuite`:
`disk.break_writes(store)` makes what is written from then on fail; `disk.set_version(number)` changes what a closed store says
about itself.
"""

from __future__ import annotations

import asyncio

import pytest

from quiver.errors import Unavailable, UsageError
from quiver.live.stores.version import STORE_VERSION


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

    def test_a_long_scan_shows_the_moment_of_its_call_and_reads_after_it_show_theirs(self, disk):
        async def story():
            store = disk.open()
            keys = [number.to_bytes(4, "big") for number in range(10_000)]
            await store.commit([("t", key, b"1") for key in keys])
            rows, dropped = store.scan("t"), store.scan("t", b"\0\0")
            assert (next(rows), next(dropped)) == ((keys[0], b"1"), (keys[0], b"1"))
            await store.commit([("t", key, b"2" if key != keys[-1] else None) for key in keys] + [("t", b"z", b"2")])
            assert (store.get("t", keys[1]), store.get("t", keys[-1])) == (b"2", None)
            assert list(rows) == [(key, b"1") for key in keys[1:]]
            assert list(rows) == []
            del dropped
            assert list(store.scan("t")) == [(key, b"2") for key in keys[:-1]] + [(b"z", b"2")]
            await store.close()

        disk.run(story)

    def test_a_large_batch_is_like_small_ones_and_its_last_write_wins(self, disk):
        async def story():
            store = disk.open()
            await store.commit([("t", b"gone", b"1"), ("t", b"old", b"1")])
            many = [("t", b"%05d" % number, bytes((number % 256,)) * (number % 700)) for number in range(3000)]
            await store.commit(
                [*many, ("t", b"gone", None), ("t", b"old", b"2"), ("t", b"00007", b""), ("t", b"00008", None)]
            )
            expected = {key: value for _, key, value in many} | {b"old": b"2", b"00007": b""}
            del expected[b"00008"]
            assert list(store.scan("t")) == sorted(expected.items())
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


class RealStoreSuite(StoreSuite):
    """Of stores whose disk or server can fail, and which outlive the code that wrote them."""

    def test_after_a_failed_write_nothing_is_taken_until_it_is_opened_again(self, disk):
        async def story():
            store = disk.open()
            await store.commit([("t", b"1", b"kept")])
            disk.break_writes(store)
            # Both wait together, the second may not even have been tried.
            lost = await asyncio.gather(
                store.commit([("t", b"2", b"lost")]), store.commit([("t", b"3", b"lost")]), return_exceptions=True
            )
            assert [type(error) for error in lost] == [Unavailable, Unavailable]
            with pytest.raises(Unavailable, match="and restart the node"):
                await store.commit([("t", b"4", b"refused")])
            await store.close()
            store = disk.open()
            assert list(store.scan("t")) == [(b"1", b"kept")]
            await store.commit([("t", b"5", b"kept")])
            await store.close()

        disk.run(story)

    def test_a_second_opener_is_told_to_stop(self, disk):
        async def story():
            store = disk.open()
            with pytest.raises(UsageError, match="in use by another process"):
                disk.open()
            await store.commit([("t", b"k", b"the first goes on")])
            await store.close()
            await disk.open().close()

        disk.run(story)

    def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(self, disk):
        async def story():
            store = disk.open()
            await store.commit([("t", b"k", b"1")])
            await store.close()
            disk.set_version(STORE_VERSION + 1)
            for _ in range(2):
                with pytest.raises(
                    UsageError, match=f"newer QUIVer.*version {STORE_VERSION + 1}.*up to {STORE_VERSION}"
                ):
                    disk.open()
            disk.set_version(STORE_VERSION)
            store = disk.open()
            assert list(store.scan("t")) == [(b"k", b"1")]
            await store.close()

        disk.run(story)
