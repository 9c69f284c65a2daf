"""A role's store, opened to look into it: a file beside the node that writes it; a PostgreSQL store only while its node is stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quiver.errors import UsageError
from quiver.ids import PeerId
from quiver.live.stores.choice import find_url, open_store
from quiver.live.stores.rows import successor
from quiver.ports import Batch, Store


class FileReader:
    """The `Store` port on a file that another process writes; only for looking."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"{path}: no such store; has this node run yet?")
        try:
            self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        except sqlite3.Error as error:
            raise UsageError(f"cannot read the store {path}: {error}") from error

    def get(self, table: str, key: bytes) -> bytes | None:
        """Last committed value."""
        found = self._connection.execute("SELECT value FROM rows WHERE tab = ? AND key = ?", (table, key)).fetchone()
        return None if found is None else bytes(found[0])

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs under `prefix`, in key order."""
        until = successor(prefix)
        query = "SELECT key, value FROM rows WHERE tab = ? AND key >= ?" + ("" if until is None else " AND key < ?")
        given = (table, prefix) if until is None else (table, prefix, until)
        yield from self._connection.execute(query + " ORDER BY key", given)

    async def commit(self, batch: Batch) -> None:
        """`UsageError`."""
        raise UsageError("this store is read only")

    async def close(self) -> None:
        """Release the file."""
        self._connection.close()


def open_to_read(text: str, path: Path, peer_id: PeerId) -> Store:
    """The store of the node `peer_id`, whose config says `text`, which as a file is `path`."""
    return FileReader(path) if find_url(text, path) is None else open_store(text, path, peer_id)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What SQLite says of a damaged or foreign file becomes a `UsageError` that names it."""
    try:
        yield
    except sqlite3.Error as error:
        raise UsageError(f"cannot read the store {path}: {error}") from error
