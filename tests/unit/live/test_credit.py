"""`credit` on the store of a gateway that does not run, and its admin door, with credits counted by hand."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from quiver.gateway.budget import Budget, read_grants
from quiver.live import init
from quiver.live.__main__ import main
from quiver.live.clock import LiveClock
from quiver.live.http.admin import make_admin_app
from quiver.live.http.serve import start
from quiver.live.stores.sqlite import SqliteStore
from quiver.live.teller import Teller
from sim.store import MemoryStore

SELLING = (
    f'\n[[http.keys]]\nname = "alice"\nsha256 = "{hashlib.sha256(b"k").hexdigest()}"\n'
    "[selling.prices.m]\nprompt = 5\ncompletion = 7\n"
)


@pytest.fixture
def path(tmp_path):
    init.init_network(tmp_path, name="net", host="127.0.0.1", bootstrap_port=1, aggregator_port=2)
    init.init_role("gateway", tmp_path, parts=init.gateway_parts({"m": "11" * 32}))
    path = tmp_path / "gateway.toml"
    path.write_text(path.read_text() + SELLING)
    return path


def run(capsys, path, action, *arguments):
    capsys.readouterr()
    code = main(["credit", action, "--config", str(path), *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_credit_is_given_taken_back_and_shown(path, capsys):
    assert run(capsys, path, "add", "alice", "1000")[0] == 0
    code, out, _ = run(capsys, path, "add", "--json", "--", "alice", "-400")
    assert code == 0 and json.loads(out)["balance"] == json.loads(out)["granted"] == 600
    code, out, _ = run(capsys, path, "list")
    assert [line.split() for line in out.splitlines()] == [
        ["account", "balance", "held", "granted", "charged", "requests"], ["alice", "600", "0", "600", "0", "0"],
    ]  # fmt: skip
    store = SqliteStore(path.parent / "gateway.sqlite")
    assert [(grant.account, grant.amount) for grant in read_grants(store)] == [("alice", 1_000), ("alice", -400)]
    asyncio.run(store.close())


def test_the_same_id_gives_once(path, capsys):
    for _ in range(2):
        code, out, _ = run(capsys, path, "add", "--json", "--id", "ab" * 16, "alice", "1000")
        assert code == 0 and json.loads(out)["balance"] == 1_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "bob", "5"), "'bob' is no name of [[http.keys]] that pays; those are: alice"),
        (("add", "alice", "0"), "0 credits can't be added"),
        (("add", "--", "alice", "-1"), "0 are free to be taken back"),
        (("add", "--id", "xy", "alice", "5"), "write 32 hex digits"),
        (("show", "bob"), "there is no account 'bob'"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(path, capsys, arguments, words):
    code, _, err = run(capsys, path, *arguments)
    assert code == 2 and words in err and len(err.splitlines()) == 1


def test_a_gateway_that_runs_without_an_admin_port_is_named_as_the_reason(path, capsys):
    store = SqliteStore(path.parent / "gateway.sqlite")
    code, _, err = run(capsys, path, "list")
    asyncio.run(store.close())
    assert code == 2 and "in use by another process" in err and "admin_port" in err


def test_a_gateway_that_holds_the_store_and_does_not_answer_is_not_taken_for_done(path, capsys):
    path.write_text(path.read_text().replace("[selling.prices.m]", "[selling]\nadmin_port = 1\n[selling.prices.m]"))
    store = SqliteStore(path.parent / "gateway.sqlite")
    code, _, err = run(capsys, path, "add", "--id", "ab" * 16, "alice", "5")
    asyncio.run(store.close())
    assert code == 1 and "does not answer" in err and f"--id {'ab' * 16} gives nothing twice" in err


def test_a_gateway_that_does_not_sell_has_no_accounts(path, capsys):
    path.write_text(path.read_text().replace("[selling.prices.m]\nprompt = 5\ncompletion = 7\n", ""))
    code, _, err = run(capsys, path, "list")
    assert code == 2 and "has no [selling]" in err


# ---- the door


def test_the_door_answers_in_json_whatever_comes():
    import aiohttp

    async def story():
        store = MemoryStore(fsync_s=0)
        teller = Teller(Budget(store), ["alice"], store, LiveClock())
        runner = await start(make_admin_app(teller, "key"), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        good = {"id": "ab" * 16, "account": "alice", "amount": 5}
        told = []
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session:
            for body in (
                json.dumps(good), json.dumps(good), "{", json.dumps({**good, "id": "ab"}), json.dumps({**good, "id": "x"}),
                json.dumps({**good, "account": "bob", "id": "cd" * 16}), json.dumps({**good, "more": 1}), "[" * 5_000,
            ):  # fmt: skip
                async with session.post(f"{url}/credit", data=body) as answer:
                    told.append((answer.status, (await answer.json()).get("balance")))
            async with session.get(f"{url}/other") as answer:
                told.append((answer.status, "error" in await answer.json()))
            async with session.get(f"{url}/credit", headers={"Authorization": "Bearer k\xe9y"}) as answer:
                told.append((answer.status, "error" in await answer.json()))
        await runner.cleanup()
        return told

    told = asyncio.run(story())
    assert told[:2] == [(200, 5), (200, 5)]
    assert [status for status, _ in told[2:7]] == [400] * 5 and told[7][0] in (400, 413)
    assert told[8:] == [(404, True), (401, True)]
