"""The file of a ledger that several processes of one machine share."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quiver.live.private_files import FILE_MODE, make_database, make_folder
from quiver.live.stores.sqlite import connect


@contextmanager
def opening(path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """(reader, writer), alone with the file until the block ends: several nodes start at once, one makes the file, the others wait.

    Both are closed when the block fails, else the caller's.
    """
    make_folder(path.parent)
    with open(f"{path}.lock", "a", opener=lambda name, flags: os.open(name, flags, FILE_MODE)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_database(path)
        reader, writer = connect(path), connect(path)
        try:
            yield reader, writer
        except BaseException:
            reader.close()
            writer.close()
            raise
