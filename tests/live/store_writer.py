"""Run by test_sqlite_store: commits rows one after the other and prints each number only once it is durable."""

from __future__ import annotations

import asyncio
import sys

from quiver.live.stores.sqlite import SqliteStore


async def main(path: str, start: int) -> None:
    store = SqliteStore(path)
    loop = asyncio.get_running_loop()

    async def write(number: int) -> None:
        # Two tables in one batch: after a crash both rows are there, or neither.
        await store.commit(
            [("left", number.to_bytes(4, "big"), b"x" * 200), ("right", number.to_bytes(4, "big"), b"y" * 200)]
        )
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()

    while True:
        await asyncio.gather(*(loop.create_task(write(start + n)) for n in range(8)))
        start += 8


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
