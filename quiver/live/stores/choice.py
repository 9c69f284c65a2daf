"""Which store a node opens: the file or server its config names, or the environment's DATABASE_URL in place of a file.

Rules of this file: psycopg is imported only by who uses it, since a plain install has none; a URL never reaches a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quiver.errors import UsageError
from quiver.ids import PeerId
from quiver.live.stores.sqlite import SqliteStore
from quiver.ports import Store

VARIABLE = "DATABASE_URL"
KINDS = ("sqlite", "postgres")
_SCHEMES = ("postgresql://", "postgres://")


def find_url(text: str, path: Path) -> str | None:
    """URL of the PostgreSQL server a config's `store` or the environment names; None for the file at `path`.

    `UsageError` when both could be meant: a node that starts with an empty store has forgotten its channels.
    """
    if text.startswith(_SCHEMES):
        return text
    url = os.environ.get(VARIABLE, "")
    if not url:
        return None
    if not url.startswith(_SCHEMES):
        raise UsageError(
            f"{VARIABLE} is no PostgreSQL URL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or unset it"
        )
    if path.exists():
        raise UsageError(
            f"{VARIABLE} is set, but there is a store in {path} too: unset the variable, or move the file away to start anew"
        )
    return url


def open_store(text: str, path: Path, peer_id: PeerId) -> Store:
    """The store of the node `peer_id`, whose config says `text`, which as a file is `path`."""
    url = find_url(text, path)
    if url is None:
        return SqliteStore(path)
    check_driver()
    from quiver.live.stores.postgres import PostgresStore
    from quiver.live.stores.postgres_url import schema_of

    return PostgresStore(url, schema=schema_of(peer_id))


def check_driver() -> None:
    """`UsageError` where the extra is not installed."""
    try:
        import psycopg  # noqa: F401 - asked for, not used
    except ImportError as error:
        raise UsageError(f"a store on PostgreSQL needs psycopg ({error}): pip install 'quiver[postgres]'") from error


@contextmanager
def database() -> Iterator[str]:
    """The environment's DATABASE_URL, or that of a server of our own, which ends with the block."""
    check_driver()
    from quiver.live.stores.postgres_server import PostgresServer

    if url := os.environ.get(VARIABLE, ""):
        yield url
        return
    with PostgresServer() as server:
        yield server.url
