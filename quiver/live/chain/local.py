"""A ledger for a devnet on one machine: the contract model in an SQLite file that several processes share.

Each submission is one exclusive transaction: read the contract, apply, write contract and event. Final at once. Whoever can write
the file is trusted to name itself: this is a test network, not a chain.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from quiver.errors import SettlementError, Unavailable, UsageError
from quiver.identity.keys import verify_session as verify_real_session
from quiver.ids import Address, ChannelId
from quiver.live.chain.shared_file import opening
from quiver.params import Params
from quiver.ports import Clock
from quiver.settlement.contract import Contract
from quiver.settlement.signed import VerifySession
from quiver.values.ledger import (
    BondState,
    ChallengeState,
    ChannelState,
    EpochState,
    Fault,
    LedgerEvent,
    Transaction,
)

# Events one call of `events` returns; the caller asks again from the last index.
EVENTS_MAX = 10_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS contract (
    id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, params BLOB NOT NULL, snapshot BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, event BLOB NOT NULL);
"""
_EVENT = msgspec.msgpack.Decoder(LedgerEvent)


class LocalLedger:
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
        verify_session: VerifySession = verify_real_session,
        on_event: Callable[[LedgerEvent], None] | None = None,
    ) -> None:
        self.chain_id = chain_id
        self.contract = contract
        self.opening_cost_credits = opening_cost_credits
        self._path = Path(path)
        self._account = account
        self._params = params
        self._clock = clock
        self._verify_session = verify_session
        self._on_event = on_event
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        with opening(self._path) as (self._reader, self._writer):
            self._open(aggregator)

    def _open(self, aggregator: Address) -> None:
        fresh = Contract(
            chain_id=self.chain_id, contract=self.contract, aggregator=aggregator, params=self._params,
            verify_session=self._verify_session,
        )  # fmt: skip
        self._writer.executescript(_SCHEMA)
        self._writer.execute(
            "INSERT OR IGNORE INTO contract VALUES (1, 0, ?, ?)", (self._params.hash(), fresh.to_snapshot())
        )
        (params_hash,) = self._writer.execute("SELECT params FROM contract").fetchone()
        if params_hash != self._params.hash():
            raise UsageError(
                f"{self._path} was made with other params; take the params of its network.toml or another file"
            )
        self._version = -1
        self._model = self._read()
        found = (self._model.chain_id, self._model.contract, self._model.aggregator)
        if found != (self.chain_id, self.contract, aggregator):
            raise UsageError(
                f"{self._path} holds chain {found[0]}, contract 0x{found[1].hex()}, aggregator 0x{found[2].hex()}; "
                "correct network.toml or choose another file"
            )

    async def submit(self, transaction: Transaction) -> bytes:
        """Id of the transaction once it is in the file; `SettlementError` as the contract says, or `not_the_sender`."""
        if transaction.sender != self._account:
            raise SettlementError("not_the_sender", "a node can only sign for its own account")
        now_ms = self._clock.utc_ms()
        event = await asyncio.get_running_loop().run_in_executor(self._worker, self._apply, transaction, now_ms)
        if self._on_event is not None:
            self._on_event(event)
        return hashlib.sha256(event.index.to_bytes(8, "big") + msgspec.msgpack.encode(transaction)).digest()

    def _apply(self, transaction: Transaction, now_ms: int) -> LedgerEvent:
        writer = self._writer
        try:
            writer.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            raise Unavailable(f"the ledger {self._path} is busy: {error}", retry_after_s=1.0) from error
        try:
            (snapshot,) = writer.execute("SELECT snapshot FROM contract").fetchone()
            model = self._decode(snapshot)
            event = model.apply(transaction, now_ms)
            writer.execute("UPDATE contract SET version = version + 1, snapshot = ?", (model.to_snapshot(),))
            writer.execute("INSERT INTO events VALUES (?, ?)", (event.index, msgspec.msgpack.encode(event)))
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            raise Unavailable(f"the ledger {self._path} cannot be written: {error}; free the disk") from error
        finally:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
        return event

    def _decode(self, snapshot: bytes) -> Contract:
        return Contract.from_snapshot(snapshot, params=self._params, verify_session=self._verify_session)

    def _read(self) -> Contract:
        (version,) = self._reader.execute("SELECT version FROM contract").fetchone()
        if version != self._version:
            self._version, snapshot = self._reader.execute("SELECT version, snapshot FROM contract").fetchone()
            self._model = self._decode(snapshot)
        return self._model

    def events(self, cursor: int) -> Sequence[LedgerEvent]:
        """At most `EVENTS_MAX` events with `index >= cursor`, oldest first."""
        rows = self._reader.execute(
            "SELECT event FROM events WHERE number >= ? ORDER BY number LIMIT ?", (max(cursor, 0), EVENTS_MAX)
        ).fetchall()
        return [_EVENT.decode(row) for (row,) in rows]

    def channel(self, channel_id: ChannelId) -> ChannelState | None:
        """State of a channel."""
        return self._read().channel(channel_id)

    def balance(self, account: Address) -> int:
        """Free credits of an account."""
        return self._read().balance(account)

    def epoch(self, number: int) -> EpochState | None:
        """The commitment of an epoch, once submitted."""
        return self._read().epoch(number)

    def bond(self, account: Address) -> BondState | None:
        """What stands behind the roots of `account`, or None."""
        return self._read().bond(account)

    def challenge(self, fault: Fault, epoch: int, subject: bytes) -> ChallengeState | None:
        """Where an accusation stands, or None if nobody made it."""
        return self._read().challenge(fault, epoch, subject)

    def validate(self) -> None:
        """The contract's own invariants, on the file's state."""
        self._read().validate()

    async def close(self) -> None:
        """Finish the submission under way, then release the file."""
        await asyncio.get_running_loop().run_in_executor(None, self._worker.shutdown)
        self._reader.close()
        self._writer.close()
