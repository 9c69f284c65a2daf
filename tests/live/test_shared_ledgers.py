"""Ledgers that the processes of one machine share: the model's file, and the engines that replay one history."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from quiver.errors import SettlementError, UsageError
from quiver.ids import Address, PeerId
from quiver.params import Params
from quiver.trace import LedgerMoved
from quiver.values.ledger import Deposit, TopUp, Withdraw
from sim.invariants import SecondBookkeeper
from tests.live.ledger_user import channel_of, open_ledger

ROOT = Path(__file__).parents[2]
FIRST = Address(b"\1" * 20)


def run_users(kind, path, count=10):
    users = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.live.ledger_user", kind, path, str(number), str(count)], cwd=ROOT
        )
        for number in (1, 2, 3)
    ]
    assert [user.wait() for user in users] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["local", "evm"])
def test_processes_that_start_together_lose_no_transaction(tmp_path, kind):
    path = str(tmp_path / "chain.db")
    run_users(kind, path)

    async def look():
        ledger = open_ledger(kind, path, FIRST)
        for number in (1, 2, 3):
            account = Address(bytes([number]) * 20)
            assert (ledger.balance(account), ledger.channel(channel_of(kind, account)).locked) == (979, 21)
        events = ledger.events(0)
        assert [event.index for event in events] == list(range(36))
        books = SecondBookkeeper()
        for event in events:
            books.observe(LedgerMoved(at_s=0.0, node=PeerId(b""), event=event))
        if kind == "local":
            ledger.validate()
            books.compare(ledger._read())
        await ledger.close()

    asyncio.run(look())


@pytest.mark.parametrize("kind", ["local", "evm"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chain_id": 8}, "holds chain 7"),
        ({"contract": bytes(20)}, "holds chain 7|makes contract"),
        ({"params": Params.default()}, "other params"),
    ],
)
def test_another_network_in_the_same_file_is_an_operators_error(tmp_path, kind, change, message):
    path = tmp_path / "chain.db"
    asyncio.run(open_ledger(kind, str(path), FIRST).close())
    with pytest.raises(UsageError, match=message):
        open_ledger(kind, str(path), FIRST, **change)


def test_a_refused_call_leaves_no_trace_in_the_history(tmp_path):
    path = str(tmp_path / "chain.db")

    async def story():
        ledger = open_ledger("evm", path, FIRST)
        await ledger.submit(Deposit(sender=FIRST, amount=10))
        with pytest.raises(SettlementError, match="insufficient_balance"):
            await ledger.submit(Withdraw(sender=FIRST, amount=11))
        await ledger.close()
        assert sqlite3.connect(path).execute("SELECT count(*) FROM calls").fetchone() == (1,)

    asyncio.run(story())


def test_whoever_stops_waiting_neither_takes_it_back_nor_blocks_the_file(tmp_path):
    path = str(tmp_path / "chain.db")

    async def story():
        ledger, other = (open_ledger("evm", path, Address(bytes([n]) * 20)) for n in (1, 2))
        waiting = asyncio.ensure_future(ledger.submit(Deposit(sender=FIRST, amount=10)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await other.submit(Deposit(sender=Address(b"\2" * 20), amount=5))
        await ledger.close()
        assert (other.balance(FIRST), other.balance(Address(b"\2" * 20))) == (10, 5)
        await other.close()

    asyncio.run(story())


def test_a_damaged_history_is_named_not_believed(tmp_path):
    path = str(tmp_path / "chain.db")
    run_users("evm", path, count=1)
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM calls WHERE number = 0")
        file.execute("UPDATE calls SET number = number - 1")
    with pytest.raises(UsageError, match="call .* is refused .*: the file is damaged"):
        open_ledger("evm", path, FIRST)


def test_a_block_is_never_older_than_the_one_before(tmp_path):
    class Jumping:
        ms = 1_700_000_009_000

        def utc_ms(self):
            self.ms -= 4000
            return self.ms

    async def story():
        ledger = open_ledger("evm", str(tmp_path / "chain.db"), FIRST, clock=Jumping())
        for _ in range(2):
            await ledger.submit(Deposit(sender=FIRST, amount=10))
        with pytest.raises(SettlementError, match="unknown_channel"):
            await ledger.submit(TopUp(sender=FIRST, channel=bytes(32), amount=1))
        assert [event.at_ms for event in ledger.events(0)] == [1_700_000_005_000] * 2
        await ledger.close()

    asyncio.run(story())
