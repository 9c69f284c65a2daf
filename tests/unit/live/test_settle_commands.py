"""`settle`, `earnings` and `verify` on the files of nodes that run, with credits counted by hand."""

from __future__ import annotations

import asyncio
import copy
import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from quiver.concerns import Concern, Held
from quiver.live.__main__ import main
from quiver.live.chain.spent import SPENT, Spent, account_prefix
from quiver.live.client import verify_bundle
from quiver.live.config import ProviderConfig, load_any
from quiver.live.doctor_settlement import find_concerns
from quiver.live.earnings import read_earnings
from quiver.live.finding import Status
from quiver.provider.watch import Docket
from quiver.settlement.books import Books
from quiver.settlement.earnings import NUMBERS, By
from quiver.settlement.terms import Terms
from quiver.values.ledger import Promise
from sim.store import MemoryStore
from tests.unit.live.money import ANSWER, BODY, DAY_MS, MAX_TOKENS, MODEL, money, request_id

VERIFIER = Path(verify_bundle.__file__)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    with money(tmp_path_factory.mktemp("money")) as made:
        yield made


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def run_json(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_both_ends_see_the_channel(story, capsys):
    (line,) = run_json(capsys, "settle", "status", "--config", story.config("provider"))["channels"]
    assert line["channel"] == story.channel.hex() and line["other"] == "0x" + story.keys["gateway"].account.hex()
    assert {name: line[name] for name in ("locked", "paid", "served", "acknowledged", "due", "proven_epoch")} == {
        "locked": 1_000, "paid": 0, "served": 650, "acknowledged": 600, "due": 600, "proven_epoch": 0,
    }  # fmt: skip
    (line,) = run_json(capsys, "settle", "status", "--config", story.config("gateway"))["channels"]
    assert (line["served"], line["acknowledged"]) == (600, 600)


def test_what_the_node_warns_of_is_shown_with_its_beginning_and_what_to_do(story, capsys):
    assert run_json(capsys, "settle", "status", "--config", story.config("provider"))["warnings"] == []
    store, config = story.stores["provider"], story.config("provider")

    def keep(row):
        asyncio.run(store.commit([("concerns", b"held", row)]))

    concern = Concern(subject="ledger", detail="it is away", fix="look after it", since_ms=20_000 * DAY_MS)
    keep(msgspec.msgpack.encode(Held(concerns=[concern], more=2)))
    shown = run_json(capsys, "settle", "status", "--config", config)
    assert shown["more_warnings"] == 2 and shown["warnings"] == [
        {"subject": "ledger", "detail": "it is away", "fix": "look after it", "since_ms": 20_000 * DAY_MS}
    ]
    out = run(capsys, "settle", "status", "--config", config)[1]
    assert "warning: it is away\nsince: 2024-10-04 00:00:00 UTC\nto do: look after it\n" in out

    def examine():
        """The doctor's part in it: as a whole it would dial the network."""
        return asyncio.run(find_concerns(load_any(config), config, story.keys["provider"].peer_id))

    (warned,) = examine()
    assert (warned.check, warned.status, warned.fix) == ("warning", Status.WARN, "look after it")
    assert warned.detail == "since 2024-10-04 00:00:00 UTC: it is away; 2 more are in the log"
    keep(None)
    assert [(one.check, one.detail) for one in examine()] == [("warnings", "none")]


def test_earnings_before_and_after_a_claim(story, capsys):
    before = run_json(capsys, "earnings", "--config", story.config("provider"))
    (row,) = before["rows"]
    assert {name: row[name] for name in ("served", "owed", "acknowledged", "claimed", "unclaimed", "at_risk", "net")} == {
        "served": 650, "owed": 50, "acknowledged": 600, "claimed": 0, "unclaimed": 600, "at_risk": 50, "net": 0,
    }  # fmt: skip
    code, out, _ = run(capsys, "earnings", "--config", story.config("provider"), "--by", "model", "--csv")
    (row,) = csv.DictReader(out.splitlines())
    assert code == 0 and row["key"] == MODEL.hex() and row["served"] == "650" and set(NUMBERS) < set(row)
    code, out, _ = run(capsys, "earnings", "--config", story.config("provider"), "--by", "day")
    assert code == 0 and "2024-10-04" in out and "650" in out
    assert run_json(capsys, "earnings", "--config", story.config("provider"), "--since", "2024-10-05")["rows"] == []
    (done,) = run_json(capsys, "settle", "claim", "--config", story.config("provider"))
    assert done == {"sent": "Claim", "credits": 600, "channels": 1}
    assert run_json(capsys, "settle", "claim", "--config", story.config("provider")) == []
    (row,) = run_json(capsys, "earnings", "--config", story.config("provider"))["rows"]
    assert (row["claimed"], row["unclaimed"], row["net"]) == (600, 0, 600)
    (row,) = run_json(capsys, "earnings", "--config", story.config("gateway"), "--by", "peer")["rows"]
    assert row["key"].startswith("12D3KooW") and (row["served"], row["claimed"], row["net"]) == (600, 600, -600)


def test_a_gateway_leaves_and_a_provider_sees_it(story, capsys):
    code, out, _ = run(
        capsys, "settle", "exit", "--config", story.config("gateway"), "--channel", story.channel.hex(), "--json"
    )
    assert code == 0 and "exit requested" in out
    code, out, _ = run(
        capsys, "settle", "exit", "--config", story.config("gateway"), "--channel", story.channel.hex(), "--json"
    )
    assert code == 0 and "may finish in" in out
    (line,) = run_json(capsys, "settle", "status", "--config", story.config("provider"))["channels"]
    assert line["exit_at_ms"] is not None


def test_a_gateway_changes_its_session_key_once_at_a_time(story, capsys):
    new = story.keys["gateway"].next_session(story.keys["gateway"].session_address)
    code, out, _ = run(capsys, "keys", "rotate", "--config", story.config("gateway"))
    assert code == 0 and out.startswith(f"{story.channel.hex()}: 0x{new.hex()} signs in")
    code, out, _ = run(capsys, "keys", "rotate", "--config", story.config("gateway"))
    assert code == 0 and "a change is under way" in out
    (line,) = run_json(capsys, "settle", "status", "--config", story.config("provider"))["channels"]
    assert line["key_until_ms"] is not None
    code, out, _ = run(capsys, "keys", "rotate", "--config", story.config("provider"))
    assert code == 0 and "no channel" in out


def test_nothing_is_contested_and_what_waits_for_the_bond_is_shown(story, capsys):
    arguments = ("settle", "dispute", "--config", story.config("provider"), "--act")
    assert run_json(capsys, *arguments) == []
    store, docket = story.stores["provider"], Docket()
    promise = Promise(epoch=3, channel=story.channel, seq=1, cum=100, head=bytes(32), signature=bytes(65))
    asyncio.run(store.commit(docket.on_unchecked(promise)))
    told = {"what": "promise", "channel": story.channel.hex(), "epoch": 3, "step": "wait_for_bond", "sent": None}
    assert run_json(capsys, *arguments) == [told]
    asyncio.run(store.commit(docket.forget_unchecked(promise)))
    assert run_json(capsys, *arguments) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["settle", "claim", "--config", "gateway"], "only a provider claims"),
        (["settle", "status", "--config", "aggregator"], "only a provider and a gateway have channels"),
        (["settle", "exit", "--config", "gateway", "--channel", "00" * 32], "is not paid for by this node"),
        (["settle", "exit", "--config", "gateway", "--channel", "zz"], "write 64 hex digits"),
        (["settle", "prove", "--config", "provider", "--request", "ff" * 16], "no receipt of request"),
        (["settle", "prove", "--config", "provider", "--request", "00" * 15 + "04"], "no receipt of request"),
        (["earnings", "--config", "provider", "--since", "yesterday"], "write a day as 2026-01-31"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_2(story, capsys, arguments, message):
    given = [story.config(word) if word in ("provider", "gateway", "aggregator") else word for word in arguments]
    code, _, err = run(capsys, *given)
    (line,) = err.splitlines()
    assert code == 2 and message in line


# ---- proofs


@pytest.fixture
def bundle(story, tmp_path, capsys):
    """(file, its object) of the second request: one receipt before it, one after."""
    path = tmp_path / "bundle.json"
    code, out, err = run(
        capsys, "settle", "prove", "--config", story.config("provider"), "--request", request_id(2).hex(),
        "--max-tokens", MAX_TOKENS, "--out", path,
    )  # fmt: skip
    assert code == 0 and "verify" in out, err
    return path, json.loads(path.read_text())


def isolated(tmp_path, *arguments):
    """The verifier in an interpreter that finds its file, PyNaCl and coincurve, and nothing else of ours or others'."""
    alone = tmp_path / "alone"
    if not alone.exists():
        alone.mkdir()
        (alone / "verify_bundle.py").write_bytes(VERIFIER.read_bytes())
        packages = Path(sys.modules["coincurve"].__file__).parents[1]
        for name in ("coincurve", "nacl", "cffi", "pycparser", "_cffi_backend*"):
            for found in packages.glob(name):
                (alone / found.name).symlink_to(found)
        (alone / "check.py").write_text(
            "import importlib.util, runpy, sys\n"
            "assert importlib.util.find_spec('quiver') is None and importlib.util.find_spec('msgspec') is None\n"
            "sys.argv = ['verify_bundle.py', *sys.argv[1:]]\n"
            "runpy.run_path('verify_bundle.py', run_name='__main__')\n"
        )
    done = subprocess.run(
        # No site-packages, no environment: what is importable is what lies in this directory.
        [sys.executable, "-S", "-E", "check.py", *map(str, arguments)], cwd=alone, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_verifier_is_one_short_file_that_runs_alone(story, bundle, tmp_path):
    assert len(VERIFIER.read_text().splitlines()) <= 120
    path, _ = bundle
    (tmp_path / "request").write_bytes(BODY)
    (tmp_path / "response").write_text(ANSWER)
    session = "0x" + story.keys["gateway"].session_address.hex()
    code, said = isolated(
        tmp_path, path, "--root", story.commitment.root.hex(), "--request", tmp_path / "request", "--response",
        tmp_path / "response", "--session", session,
    )  # fmt: skip
    assert (code, said.strip()) == (0, f"holds: receipt, request, response, acknowledged by {session}, under this root")
    (tmp_path / "response").write_text(ANSWER + "!")
    code, said = isolated(tmp_path, path, "--root", story.commitment.root.hex(), "--response", tmp_path / "response")
    assert code == 1 and "response_hash" in said


def test_the_command_runs_the_same_verifier(story, bundle, capsys):
    code, out, _ = run(capsys, "verify", bundle[0], "--root", "0x" + story.commitment.root.hex(), "--count", 3)
    assert code == 0 and out.startswith("holds: receipt, acknowledged by 0x")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--root", "00" * 32], "proof_root"),
        (["--count", "4"], "proof_count"),
        (["--session", "0x" + "00" * 20], "ack_signature"),
        (["--request", "{other}"], "request_hash"),
        (["--response", "{other}"], "response_hash"),
    ],
)
def test_another_root_session_request_or_response_is_named(story, bundle, tmp_path, capsys, options, name):
    (tmp_path / "other").write_bytes(b"other")
    given = [option.format(other=tmp_path / "other") for option in options]
    root = [] if "--root" in options else ["--root", story.commitment.root.hex()]
    code, out, _ = run(capsys, "verify", bundle[0], *root, *given)
    assert code == 1 and name in out


def test_a_session_is_the_same_in_any_case_and_a_bundle_without_max_tokens_says_what_it_lacks(
    story, bundle, tmp_path, capsys
):
    root, session = ("--root", story.commitment.root.hex()), story.keys["gateway"].session_address.hex()
    code, out, _ = run(capsys, "verify", bundle[0], *root, "--session", "0x" + session.upper())
    assert code == 0, out
    path = tmp_path / "short.json"
    config = story.config("provider")
    assert run(capsys, "settle", "prove", "--config", config, "--request", request_id(2).hex(), "--out", path)[0] == 0
    (tmp_path / "request").write_bytes(BODY)
    code, out, _ = run(capsys, "verify", path, *root, "--request", tmp_path / "request")
    assert code == 1 and "`settle prove --max-tokens N` puts it there" in out


def test_a_bundle_never_takes_the_place_of_another_file(story, capsys):
    key = story.directory / "provider.key"
    before = key.read_bytes()
    code, _, err = run(
        capsys, "settle", "prove", "--config", story.config("provider"), "--request", request_id(2).hex(), "--out", key
    )
    assert code == 2 and "not overwritten" in err and key.read_bytes() == before


def test_gas_that_no_event_shows_is_in_the_report(story, capsys):
    account, chain_id = story.keys["aggregator"].account, story.network.chain.id
    store = MemoryStore()
    prefix = account_prefix(chain_id, account)
    rows = [(5, 20_000 * DAY_MS, 7), (6, 20_001 * DAY_MS, 30)]

    async def write():
        for nonce, at_ms, gas_wei in rows:
            row = msgspec.msgpack.encode(Spent(at_ms=at_ms, gas_wei=gas_wei))
            await store.commit([(SPENT, prefix + nonce.to_bytes(8, "big"), row)])

    asyncio.run(write())
    books = Books(account=account, terms=Terms.from_params(story.network.params))
    keypair = SimpleNamespace(account=account)
    desk = SimpleNamespace(
        config=ProviderConfig(key="k", store="s"), keypair=keypair, store=store, network=story.network,
        read_books=lambda: copy.deepcopy(books),
    )  # fmt: skip
    (row,) = read_earnings(desk, by=By.TOTAL, since_ms=0)
    assert (row.gas_wei, row.net) == (37, 0)
    days = read_earnings(desk, by=By.DAY, since_ms=20_001 * DAY_MS)
    assert [(day.key, day.gas_wei) for day in days] == [("2024-10-05", 30)]


def _paths(value, path=()):
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(inner, (*path, name))
    else:
        yield path


def test_no_field_of_a_bundle_can_be_changed(story, bundle, tmp_path, capsys):
    path, good = bundle
    session = "0x" + story.keys["gateway"].session_address.hex()
    (tmp_path / "request").write_bytes(BODY)
    changed = 0
    for place in _paths(good):
        if place[0] == "commitment":
            # Told for whoever looks it up; what is checked against comes from the ledger.
            continue
        forged = json.loads(path.read_text())
        holder = forged
        for name in place[:-1]:
            holder = holder[name]
        value = holder[place[-1]]
        holder[place[-1]] = value ^ 1 if isinstance(value, int) else f"{int(value[0], 16) ^ 1:x}{value[1:]}"
        other = tmp_path / "forged.json"
        other.write_text(json.dumps(forged))
        code, out, _ = run(
            capsys, "verify", other, "--root", story.commitment.root.hex(), "--session", session,
            "--request", tmp_path / "request", "--count", 3,
        )  # fmt: skip
        assert code == 1, f"{place}: {out}"
        changed += 1
    assert changed >= 25


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"receipt": null, "max_tokens": 1}', '{"receipt": {"body": {}}}'])
def test_what_is_no_bundle_is_refused(tmp_path, capsys, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    code, out, _ = run(capsys, "verify", path, "--root", "00" * 32)
    assert code == 1 and out.startswith("does not hold")


def test_its_keccak_is_ethereums():
    from Crypto.Hash import keccak

    for size in (0, 1, 64, 133, 134):
        data = bytes(range(size))
        assert verify_bundle.keccak256(data) == keccak.new(data=data, digest_bits=256).digest()
