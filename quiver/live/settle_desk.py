"""What the money commands of a node look at, whether it runs or not: its store, read only, its keys and the ledger.

Rules of this file: it never writes the node's store, so no channel has two writers. On a chain behind RPC a transaction's nonce is
in the node's store; there, commands that send refuse while the node runs, by the store's own lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.live import keyfile
from quiver.live.chain.opening import LiveLedger, open_ledger
from quiver.live.clock import LiveClock
from quiver.live.config import NodeConfig, load_any
from quiver.live.config_file import resolve
from quiver.live.config_network import Network, load_network
from quiver.live.stores.choice import find_url, open_store
from quiver.live.stores.rows import successor
from quiver.ports import Batch, Store
from quiver.settlement.books import Books
from quiver.settlement.terms import Terms


class StoreReader:
    """The `Store` port over an SQLite file that another process may be writing; `commit` is a bug."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"there is no store at {path} yet: start the node once, or correct `store`")
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)

    def get(self, table: str, key: bytes) -> bytes | None:
        """Last committed value."""
        row = self._connection.execute("SELECT value FROM rows WHERE tab = ? AND key = ?", (table, key)).fetchone()
        return None if row is None else row[0]

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs under `prefix`, in key order."""
        until = successor(prefix)
        bound, last = ("", ()) if until is None else (" AND key < ?", (until,))
        query = f"SELECT key, value FROM rows WHERE tab = ? AND key >= ?{bound} ORDER BY key"
        return iter(self._connection.execute(query, (table, prefix, *last)).fetchall())

    async def commit(self, batch: Batch) -> None:
        """Never."""
        raise UsageError("this store is only read: its node writes it")

    async def close(self) -> None:
        """Release the file."""
        self._connection.close()


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One node's money as its operator sees it."""

    config: NodeConfig
    network: Network
    keypair: KeyPair
    store: Store
    ledger: LiveLedger
    clock: LiveClock

    @property
    def terms(self) -> Terms:
        """Of the contract."""
        return Terms.from_params(self.network.params)

    def read_books(self) -> Books:
        """The ledger's whole history, as it concerns this node's account."""
        books = Books(account=self.keypair.account, terms=self.terms)
        while events := self.ledger.events(books.cursor):
            books.read(events)
        return books


@asynccontextmanager
async def opened_desk(path: Path, *, sends: bool = False) -> AsyncIterator[Desk]:
    """The node whose config is at `path`; `sends`: a transaction will be submitted."""
    config = load_any(path)
    network_path = resolve(path, config.network)
    network, keypair = load_network(network_path), keyfile.load(resolve(path, config.key))
    store_path, clock = resolve(path, config.store), LiveClock()
    async with AsyncExitStack() as stack:
        needs_lock = sends and network.chain.kind == "rpc"
        if needs_lock or find_url(config.store, store_path) is not None:
            store: Store = open_store(config.store, store_path, keypair.peer_id)
        else:
            store = StoreReader(store_path)
        stack.push_async_callback(store.close)
        ledger = await open_ledger(
            network, network_path, keypair, clock=clock, access=config.chain, store=store if needs_lock else None
        )
        stack.push_async_callback(ledger.close)
        yield Desk(config=config, network=network, keypair=keypair, store=store, ledger=ledger, clock=clock)
