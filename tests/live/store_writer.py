"""Run by tests of stores: commits rows one after the other and prints each number only once it is durable.

`python -m tests.live.store_writer FILE|URL FIRST`; the schema on a server is `SCHEMA`.
"""

from __future__ import annotations

import asyncio
import sys

from quiver.errors import Unavailable
from quiver.live.stores.postgres import PostgresStore
from quiver.live.stores.sqlite import SqliteStore

SCHEMA = "quiver_writer"
STORE_FAILED = 3


async def main(place: str, start: int) -> None:
    store = PostgresStore(place, schema=SCHEMA) if place.startswith("postgresql://") else SqliteStore(place)
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


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    except Unavailable as error:
        sys.stderr.write(str(error))
        sys.exit(STORE_FAILED)
