"""The contract's own bytes for several processes of one machine, without a server: an SQLite file holds the agreed history.

State machine replication: each process plays the file's calls into an engine of its own, so all see the same state. A submission
takes the file for itself, plays what others wrote, tries the call, writes it down, and plays it as the others will. What is
not in the file has never happened. Final at once. Whoever can write the file is trusted to name itself: this is a test network.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from quiver.errors import SettlementError, Unavailable, UsageError
from quiver.ids import Address
from quiver.live.chain.artefact import contract_address, load_artefact
from quiver.live.chain.evm import Call, EvmChain, EvmLedger
from quiver.live.chain.shared_file import opening
from quiver.params import Params
from quiver.ports import Clock
from quiver.values.ledger import LedgerEvent, Transaction

# Not a node's default: an acknowledgement for a test node's contract is worth nothing here, and the other way round.
CHAIN_ID = 31_338
# The aggregator's first transaction makes the contract.
_CREATION_NONCE = 0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chain (id INTEGER PRIMARY KEY CHECK (id = 1), origin BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY, sender BLOB NOT NULL, calldata BLOB NOT NULL, value TEXT NOT NULL, at_ms INTEGER NOT NULL);
"""
_AFTER = "SELECT sender, calldata, value, at_ms FROM calls WHERE number >= ? ORDER BY number"


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a history begins with: two processes with the same origin and the same calls have the same state."""

    chain_id: int
    aggregator: Address
    params: bytes
    "Their hash."
    code: bytes
    "SHA-256 of the contract's code."


def shared_contract(aggregator: Address) -> Address:
    """Where the contract of a network with this aggregator is."""
    return contract_address(aggregator, _CREATION_NONCE)


class SharedEvmLedger(EvmLedger):
    """One account's view: the `Ledger` port. The first process creates the file, the others must name the same contract.

    `on_event` hears each event this process caused, for its trace.
    """

    def __init__(
        self,
        path: str | Path,
        account: Address,
        *,
        chain_id: int,
        contract: Address,
        aggregator: Address,
        params: Params,
        clock: Clock,
        opening_cost_credits: int = 0,
        on_event: Callable[[LedgerEvent], None] | None = None,
    ) -> None:
        if contract != shared_contract(aggregator):
            raise UsageError(
                f"the aggregator 0x{aggregator.hex()} makes contract 0x{shared_contract(aggregator).hex()} on this chain, "
                f"not 0x{contract.hex()}: correct [chain] contract in network.toml"
            )
        chain = EvmChain(chain_id=chain_id, aggregator=aggregator, params=params)
        super().__init__(chain, account, clock=clock, opening_cost_credits=opening_cost_credits)
        self._path = Path(path)
        self._on_event = on_event
        self._origin = Origin(
            chain_id=chain_id, aggregator=aggregator, params=params.hash(),
            code=hashlib.sha256(load_artefact().bytecode.encode()).digest(),
        )  # fmt: skip
        self._played = 0
        self._turn = asyncio.Lock()
        self._under_way: dict[asyncio.Task[LedgerEvent], None] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        with opening(self._path) as (self._reader, self._writer):
            self._open()
            self._play(self._reader)

    def _open(self) -> None:
        try:
            self._writer.executescript(_SCHEMA)
            self._writer.execute("INSERT OR IGNORE INTO chain VALUES (1, ?)", (msgspec.msgpack.encode(self._origin),))
            (held,) = self._writer.execute("SELECT origin FROM chain").fetchone()
        except sqlite3.Error as error:
            raise UsageError(f"{self._path} is not the file of such a chain: {error}; choose another") from error
        found = msgspec.msgpack.decode(held, type=Origin)
        if (found.chain_id, found.aggregator) != (self.chain_id, self._origin.aggregator):
            raise UsageError(
                f"{self._path} holds chain {found.chain_id}, aggregator 0x{found.aggregator.hex()}; "
                "correct network.toml or choose another file"
            )
        if found != self._origin:
            what = "params" if found.params != self._origin.params else "code of the contract"
            raise UsageError(f"{self._path} was made with other {what}; take what belongs to it, or another file")

    def _play(self, connection: sqlite3.Connection) -> None:
        """Bring the engine up to what the file holds."""
        for sender, calldata, value, at_ms in connection.execute(_AFTER, (self._played,)).fetchall():
            call = Call(sender=Address(sender), calldata=calldata, value=int(value), at_ms=at_ms)
            try:
                self._chain.replay(call)
            except SettlementError as error:
                raise UsageError(
                    f"{self._path}: call {self._played} is refused ({error}): the file is damaged"
                ) from error
            self._played += 1

    def _current(self) -> EvmChain:
        try:
            self._play(self._reader)
        except sqlite3.Error as error:
            raise Unavailable(f"the ledger {self._path} cannot be read: {error}", retry_after_s=1.0) from error
        return self._chain

    async def submit(self, transaction: Transaction) -> bytes:
        """Id of the transaction once it is in the file; `SettlementError` as the contract says, or `not_the_sender`."""
        if transaction.sender != self._account:
            raise SettlementError("not_the_sender", "a node can only sign for its own account")
        # Whoever stops waiting does not take it back: half a submission would leave the file locked.
        work = asyncio.ensure_future(self._append(transaction))
        self._under_way[work] = None
        work.add_done_callback(lambda done: self._under_way.pop(done, None))
        event = await asyncio.shield(work)
        return hashlib.sha256(event.index.to_bytes(8, "big") + msgspec.msgpack.encode(transaction)).digest()

    async def _append(self, transaction: Transaction) -> LedgerEvent:
        loop = asyncio.get_running_loop()
        async with self._turn:
            await loop.run_in_executor(self._worker, self._begin)
            try:
                self._play(self._writer)
                # A block is never older than the one before it.
                latest = self._chain.events[-1].at_ms if self._chain.events else 0
                call = self._chain.make_call(transaction, max(self._clock.utc_ms(), latest))
                self._chain.check(call)
                await loop.run_in_executor(self._worker, self._write, call)
            finally:
                await loop.run_in_executor(self._worker, self._end)
            number = self._played
            event = self._current().events[number]
        if self._on_event is not None:
            self._on_event(event)
        return event

    def _begin(self) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise Unavailable(f"the ledger {self._path} is busy: {error}", retry_after_s=1.0) from error

    def _write(self, call: Call) -> None:
        row = (self._played, call.sender, call.calldata, str(call.value), call.at_ms)
        try:
            self._writer.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?)", row)
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            raise Unavailable(f"the ledger {self._path} cannot be written: {error}; free the disk") from error

    def _end(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    async def close(self) -> None:
        """Finish the submissions under way, then release the file."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._worker.shutdown)
        self._reader.close()
        self._writer.close()
