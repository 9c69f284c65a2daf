"""The devnet's ledger shared by processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from quiver.errors import UsageError
from quiver.ids import Address, PeerId
from quiver.live.chain.local import LocalLedger
from quiver.params import Params
from quiver.trace import LedgerMoved
from sim.invariants import SecondBookkeeper
from tests.live.ledger_user import AGGREGATOR, CHAIN_ID, HUB, FixedClock, channel_of, open_ledger

ROOT = Path(__file__).parents[2]


def test_processes_that_start_together_lose_no_transaction(tmp_path):
    path = str(tmp_path / "chain.db")
    users = [
        subprocess.Popen([sys.executable, "-m", "tests.live.ledger_user", path, str(number), "10"], cwd=ROOT)
        for number in (1, 2, 3)
    ]
    assert [user.wait() for user in users] == [0, 0, 0]

    async def look():
        ledger = open_ledger(path, Address(b"\1" * 20))
        ledger.validate()
        for number in (1, 2, 3):
            account = Address(bytes([number]) * 20)
            assert (ledger.balance(account), ledger.channel(channel_of(account)).locked) == (979, 21)
        events = ledger.events(0)
        assert [event.index for event in events] == list(range(36))
        books = SecondBookkeeper()
        for event in events:
            books.observe(LedgerMoved(at_s=0.0, node=PeerId(b""), event=event))
        books.compare(ledger._read())
        await ledger.close()

    asyncio.run(look())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chain_id": 8}, "holds chain 7"),
        ({"contract": bytes(20)}, "holds chain 7"),
        ({"params": Params.default()}, "other params"),
    ],
)
def test_another_network_in_the_same_file_is_an_operators_error(tmp_path, change, message):
    path = tmp_path / "chain.db"
    asyncio.run(open_ledger(str(path), Address(b"\1" * 20)).close())
    settings = {
        "chain_id": CHAIN_ID,
        "contract": HUB,
        "aggregator": AGGREGATOR,
        "params": Params.minimal(),
        "clock": FixedClock(),
    }
    with pytest.raises(UsageError, match=message):
        LocalLedger(path, Address(b"\1" * 20), **(settings | change))
