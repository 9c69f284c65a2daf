"""What the doctor says of an aggregator's and a shard's key, and of the bond behind their roots; a slash of 100 makes a bond of 2,000."""

from __future__ import annotations

import asyncio
import sqlite3

import msgspec
import pytest

from quiver.live import config, doctor, init, keyfile
from quiver.live.chain.opening import open_ledger
from quiver.live.clock import LiveClock
from quiver.live.config_network import load_network
from quiver.live.finding import Status
from quiver.live.stores.sqlite import SqliteStore
from quiver.params import Params
from quiver.values.ledger import Bond, Deposit, RequestUnbond

PARAMS = msgspec.structs.replace(Params.minimal(), slash_credits=100)


class Net:
    """A network of a committer and two shards, whose processes do not run."""

    def __init__(self, directory, monkeypatch, *, params=PARAMS):
        monkeypatch.setattr(doctor, "PEER_TIMEOUT_S", 0.05)
        self.directory = directory
        init.init_network(
            directory, name="net", host="127.0.0.1", bootstrap_port=1, aggregator_port=2, shard_ports=(4003, 4004),
            params=params,
        )  # fmt: skip
        self.keys = keyfile.load(directory / "aggregator.key")

    def examine(self, name, **changed):
        path = self.directory / f"{name}.toml"
        loaded = msgspec.structs.replace(config.load_any(path), **changed)
        return {found.check: found for found in asyncio.run(doctor.examine(loaded, path))}

    def send(self, *transactions):
        path = self.directory / "network.toml"

        async def flow():
            ledger = await open_ledger(load_network(path), path, self.keys, clock=LiveClock())
            for transaction in transactions:
                await ledger.submit(transaction)
            await ledger.close()

        asyncio.run(flow())

    def bond(self, amount, signer=None):
        account = self.keys.account
        self.send(
            Deposit(sender=account, amount=amount),
            Bond(sender=account, amount=amount, signer=signer or self.keys.session_address),
        )


@pytest.fixture
def net(tmp_path, monkeypatch):
    return Net(tmp_path, monkeypatch)


def test_a_good_key_is_named_and_before_the_first_start_there_is_no_bond_to_look_at(net):
    account = "0x" + net.keys.account.hex()
    committer, shard = net.examine("aggregator"), net.examine("shard-1")
    assert committer["poster"].detail == f"this node posts, account {account}"
    assert shard["poster"].detail == f"a shard, in the name of account {account}"
    assert "bond" not in committer and "bond" not in shard


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("shard-0", {"poster_key": "none.key"}, "poster_key none.key: key file"),
        ("shard-0", {"poster_key": ""}, "this node is shard 0: set poster_key to the key file of 0x"),
        ("shard-0", {"poster_key": "bootstrap.key"}, "that of poster_key bootstrap.key is 0x"),
        ("aggregator", {"poster_key": "aggregator.key"}, "network.toml lists no shard with this node's key: take it out"),
        ("aggregator", {"key": "bootstrap.key"}, "network.toml names 0x"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_the_posters_is_named(net, name, changed, words):
    found = net.examine(name, **changed)["poster"]
    assert found.status is Status.FAIL and found.fix and words in f"{found.detail}: {found.fix}"


def test_a_posters_key_that_others_can_read_is_named(net):
    (net.directory / "aggregator.key").chmod(0o644)
    found = net.examine("shard-0")["poster"]
    assert found.status is Status.FAIL and "poster_key" in found.detail and "chmod 600" in found.fix


def test_a_bond_that_is_there_is_fine_for_committer_and_shard(net):
    net.bond(2_000)
    assert net.examine("aggregator")["bond"].status is net.examine("shard-0")["bond"].status is Status.OK


@pytest.mark.parametrize("name", ["aggregator", "shard-0"])
def test_a_bond_that_is_too_little_fails_with_what_to_deposit(net, name):
    net.bond(1_500)
    found = net.examine(name, faucet_credits=0)["bond"]
    assert found.status is Status.FAIL and found.detail == (
        "bond_short: the bond lacks 500 of 2000 credits and 0 are free"
    )
    assert found.fix.startswith(f"deposit 500 more to account 0x{net.keys.account.hex()}")
    # What is free will be bonded.
    net.send(Deposit(sender=net.keys.account, amount=500))
    found = net.examine(name)["bond"]
    assert found.status is Status.WARN and "lacks 500 of 2000 credits, which are free" in found.detail


def test_no_bond_is_told_from_one_that_the_first_start_will_buy(net):
    # Somebody's first step made the ledger's file; the account has nothing.
    net.send()
    assert net.examine("aggregator", faucet_credits=0)["bond"].status is Status.FAIL
    for found in (net.examine("aggregator", faucet_credits=2_000)["bond"], net.examine("shard-0")["bond"]):
        assert (
            found.status is Status.WARN and found.detail == "it lacks 2000 of 2000 credits, and nothing was bought yet"
        )


def test_a_bond_of_another_key_and_one_that_was_asked_back_fail(net, tmp_path):
    net.bond(2_000, signer=b"\x07" * 20)
    found = net.examine("aggregator")["bond"]
    assert found.status is Status.FAIL and found.detail.startswith("signer_fixed: our bond names signer 0x0707")
    assert found.fix == "start with the key file it was bonded with"
    net.send(RequestUnbond(sender=net.keys.account))
    found = net.examine("shard-1")["bond"]
    assert (found.status, found.detail) == (Status.FAIL, "unbonding: our bond was asked back")


def test_where_nothing_is_slashed_no_bond_is_needed(tmp_path, monkeypatch):
    net = Net(tmp_path, monkeypatch, params=msgspec.structs.replace(PARAMS, slash_credits=0))
    net.send()
    assert net.examine("aggregator")["bond"].detail == "none is needed: in this network nothing is slashed"


def test_a_store_that_is_none_is_named_where_its_warnings_are_looked_for(net):
    init.init_role("provider", net.directory, parts=init.provider_parts(url="http://127.0.0.1:1"))
    assert "warnings" not in net.examine("provider"), "it has never run"
    asyncio.run(SqliteStore(net.directory / "provider.sqlite").close())
    assert net.examine("provider")["warnings"].detail == "none"
    with sqlite3.connect(net.directory / "provider.sqlite") as connection:
        connection.execute("DROP TABLE rows")
    connection.close()
    assert net.examine("provider")["warnings"].status is Status.FAIL
