"""The doctor's table, without a network: what it finds and what it says to do."""

from __future__ import annotations

import asyncio
import json

from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import peer_id_text
from quiver.live import config, doctor, init
from quiver.live.__main__ import main
from quiver.live.doctor import Finding, Status
from quiver.live.stores.sqlite import SqliteStore


def make_provider(tmp_path):
    """A provider of a network nobody runs: port 1 answers neither UDP nor TCP."""
    init.init_network(tmp_path, name="net", host="127.0.0.1", bootstrap_port=1, aggregator_port=2)
    init.init_role("provider", tmp_path, parts=init.provider_parts(url="http://127.0.0.1:1"))
    return tmp_path / "provider.toml"


def examine(path, monkeypatch):
    monkeypatch.setattr(doctor, "PEER_TIMEOUT_S", 0.05)
    return {found.check: found for found in asyncio.run(doctor.examine(config.load_any(path), path))}


def test_what_is_down_fails_and_what_is_not_there_yet_warns(tmp_path, monkeypatch):
    found = examine(make_provider(tmp_path), monkeypatch)
    assert {check: one.status for check, one in found.items() if one.status is not Status.OK} == {
        "bootstrap": Status.FAIL, "chain": Status.WARN, "backend": Status.FAIL,
    }  # fmt: skip
    assert all(one.fix for one in found.values() if one.status is not Status.OK)
    assert not doctor.is_well(list(found.values()))


def test_an_open_key_and_a_missing_network_file_are_found(tmp_path, monkeypatch):
    path = make_provider(tmp_path)
    (tmp_path / "provider.key").chmod(0o644)
    (tmp_path / "network.toml").unlink()
    found = examine(path, monkeypatch)
    assert "chmod 600" in found["key"].fix and found["network"].status is Status.FAIL


def test_a_store_that_others_can_read_is_named(tmp_path, monkeypatch):
    path, store = make_provider(tmp_path), tmp_path / "provider.sqlite"
    asyncio.run(SqliteStore(store).close())
    assert examine(path, monkeypatch)["disk"].status is Status.OK
    store.chmod(0o640)
    found = examine(path, monkeypatch)["store"]
    assert (found.status, found.fix) == (Status.WARN, f"chmod 600 {store}")


def test_a_networks_only_bootstrap_does_not_wait_for_itself(tmp_path, monkeypatch):
    make_provider(tmp_path)
    found = examine(tmp_path / "bootstrap.toml", monkeypatch)
    assert found["bootstrap"].status is Status.OK and "only one" in found["bootstrap"].detail


def test_what_a_gateway_could_not_start_with_is_found(tmp_path, monkeypatch):
    make_provider(tmp_path)
    init.init_role("gateway", tmp_path, parts=init.gateway_parts({}, policy="nope"))
    path = tmp_path / "gateway.toml"
    path.write_text(path.read_text().replace('[http]\nhost = "127.0.0.1"', '[http]\nhost = "0.0.0.0"'))
    found = examine(path, monkeypatch)
    assert found["models"].status is found["policy"].status is found["tls"].status is Status.FAIL
    assert "pin at least one" in found["models"].fix and "insecure" in found["tls"].fix
    assert "no policy is named 'nope'" in found["policy"].detail and "choose one of" in found["policy"].fix
    path.write_text(path.read_text().replace("\nport = 8080", '\ncertfile = "none.pem"\nport = 8080'))
    assert "none.pem" in examine(path, monkeypatch)["tls"].detail


def test_whom_a_gateway_believes_is_checked(tmp_path, monkeypatch):
    make_provider(tmp_path)
    init.init_role("gateway", tmp_path, parts=init.gateway_parts({"m:1": "ab" * 32}))
    path = tmp_path / "gateway.toml"
    plain, witness = path.read_text(), peer_id_text(KeyPair(b"w" * 32).peer_id)

    def found(trust):
        path.write_text(f"{plain}\n[trust]\n{trust}\n")
        return examine(path, monkeypatch)["trust"]

    assert found("").detail == "detectors: none; witnesses: 0"
    good = f'detectors = ["speed", "tokens"]\nwitnesses = ["{witness}"]\nevidence = "them.jsonl"'
    assert found(good).detail == "detectors: speed, tokens; witnesses: 1; them.jsonl is not there yet"
    (tmp_path / "them.jsonl").touch()
    assert found(good).detail == "detectors: speed, tokens; witnesses: 1"
    for trust, words in (
        ('detectors = ["sped"]', "no fraud detector is called 'sped'"),
        ('detectors = ["all"]\nevidence = "them.jsonl"', "witnesses and evidence belong together"),
        (good.replace(witness, "nobody"), "[trust] witnesses"),
    ):
        assert found(trust).status is Status.FAIL and words in found(trust).detail


def test_the_table_shows_the_fix_under_its_finding():
    lines = doctor.render(
        [
            Finding(check="key", status=Status.OK, detail="fine"),
            Finding(check="disk", status=Status.WARN, detail="full", fix="free some"),
        ]
    ).splitlines()
    assert [line.split() for line in lines] == [["OK", "key", "fine"], ["WARN", "disk", "full"], ["->", "free", "some"]]


def test_the_command_exits_with_1_and_speaks_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PEER_TIMEOUT_S", 0.05)
    assert main(["doctor", "--config", str(make_provider(tmp_path)), "--json"]) == 1
    assert {finding["status"] for finding in json.loads(capsys.readouterr().out)} == {"ok", "warn", "fail"}
