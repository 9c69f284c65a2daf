"""A node's first credits are bought once."""

import asyncio
import stat
from types import SimpleNamespace

import pytest

from quiver.identity.keys import KeyPair
from quiver.ids import Address
from quiver.live.chain.local import LocalLedger
from quiver.live.clock import LiveClock
from quiver.live.funding import buy_credits
from quiver.live.init import write_new
from quiver.params import Params
from quiver.values.ledger import Bond, Withdraw

ME = KeyPair(b"\x05" * 32)
CONTRACT, AGGREGATOR = Address(b"\x0c" * 20), Address(b"\x0a" * 20)


@pytest.fixture
def node(tmp_path):
    ledger = LocalLedger(
        tmp_path / "ledger.sqlite", ME.account, chain_id=31337, contract=CONTRACT, aggregator=AGGREGATOR,
        params=Params.minimal(), clock=LiveClock(),
    )  # fmt: skip
    yield SimpleNamespace(
        runtime=SimpleNamespace(ledger=ledger, signer=ME), network=SimpleNamespace(chain=SimpleNamespace(kind="local"))
    )
    asyncio.run(ledger.close())


def balance(node):
    return node.runtime.ledger.balance(ME.account)


@pytest.mark.parametrize("gone", ["bonded", "withdrawn"])
def test_an_account_whose_credits_are_elsewhere_buys_no_more(node, gone):
    async def story():
        await buy_credits(node, 500, 0)
        assert balance(node) == 500
        spend = {
            "bonded": Bond(sender=ME.account, amount=500, signer=ME.session_address),
            "withdrawn": Withdraw(sender=ME.account, amount=500),
        }[gone]
        await node.runtime.ledger.submit(spend)
        await buy_credits(node, 500, 0)
        assert balance(node) == 0

    asyncio.run(story())


def test_play_money_and_real_money_are_not_each_other(node):
    async def story():
        await buy_credits(node, 0, 700)
        assert balance(node) == 0
        node.network.chain.kind = "rpc"
        await buy_credits(node, 500, 700)
        assert balance(node) == 700

    asyncio.run(story())


def test_a_config_is_its_owners_and_the_network_file_everybodys(tmp_path):
    write_new(tmp_path / "gateway.toml", "secret")
    write_new(tmp_path / "network.toml", "shared", is_private=False)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("gateway.toml", "network.toml")]
    assert modes[0] == 0o600 and modes[1] & 0o400
