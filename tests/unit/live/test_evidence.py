"""The evidence command: what an aggregator kept comes out as lines that others can check, while the store is in use."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from quiver.aggregator.fraud import EVIDENCE
from quiver.identity.keys import KeyPair
from quiver.live import __main__ as live
from quiver.live import init
from quiver.live.stores.sqlite import SqliteStore
from quiver.receipts.evidence import read_line, sign_evidence
from quiver.values.evidence import Evidence
from sim.signer import SimSigner

WITNESS, PROVIDER = SimSigner(1, "aggregator", mode="real"), KeyPair(b"\x07" * 32)


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    init.init_network(tmp_path, name="test", host="127.0.0.1", bootstrap_port=4001, aggregator_port=4002)
    return tmp_path


def keep(folder, *scores):
    """Evidence as the desk keeps it; the store stays open, as a running node's is."""

    async def main():
        rows = []
        for number, score in enumerate(scores):
            evidence = Evidence(
                peer=PROVIDER.peer_id, detector=f"speed-{number}", score=score, threshold=1.25, reasons=("too fast",),
                since_ms=1, until_ms=2,
            )  # fmt: skip
            signed = await sign_evidence(WITNESS, evidence)
            rows.append((EVIDENCE, evidence.detector.encode() + b"\0" + evidence.peer, msgspec.msgpack.encode(signed)))
        await store.commit(rows)

    config = (folder / "aggregator.toml").read_text()
    (name,) = [line.split('"')[1] for line in config.splitlines() if line.startswith("store = ")]
    store = SqliteStore(folder / name)
    asyncio.run(main())
    return store


def run(capsys, *arguments):
    code = live.main(["evidence", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_lines_come_out_while_the_node_runs_and_check_elsewhere(network, capsys, tmp_path):
    store = keep(network, 1.5, 2.5)
    code, out, _ = run(capsys, "--config", network / "aggregator.toml", "--json")
    lines = out.splitlines()
    assert code == 0 and [read_line(line.encode()).evidence.score for line in lines] == [1.5, 2.5]
    assert json.loads(lines[0])["suspicious"] is True
    (tmp_path / "lines.jsonl").write_text(out)
    code, out, _ = run(capsys, "--check", tmp_path / "lines.jsonl")
    assert code == 0 and out.splitlines()[0].startswith("speed-0           1.50 > 1.25   12D3Koo") and "too fast" in out
    (tmp_path / "lines.jsonl").write_text(lines[0].replace("1.5", "9.5"))
    code, _, err = run(capsys, "--check", tmp_path / "lines.jsonl")
    assert code == 2 and "line 1: evidence_signature" in err
    asyncio.run(store.close())


def test_an_aggregator_that_suspects_nobody_says_so(network, capsys):
    asyncio.run(keep(network).close())
    assert run(capsys, "--config", network / "aggregator.toml")[:2] == (0, "nobody is suspected\n")
    assert run(capsys, "--config", network / "aggregator.toml", "--json")[:2] == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--config", "a.toml", "--check", "b.jsonl")])
def test_one_of_config_and_file(capsys, arguments):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "give --config of an aggregator, or --check FILE" in err


def test_what_is_not_there_is_said(network, capsys):
    code, _, err = run(capsys, "--config", network / "aggregator.toml")
    assert code == 2 and "no such store" in err
    code, _, err = run(capsys, "--check", network / "none.jsonl")
    assert code == 2 and "No such file" in err
    (network / "bad.jsonl").write_text("{}")
    code, _, err = run(capsys, "--check", network / "bad.jsonl")
    assert code == 2 and "line 1" in err
