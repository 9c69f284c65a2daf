"""The data folder: what is missing or damaged says what to do; what is fetched is verified."""

from __future__ import annotations

import gzip
import json
import urllib.request
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from quiver.errors import Unavailable, UsageError
from sim import data, data_cli, data_fetch
from sim.data import DataDamaged, DataFile, DataMissing

AZURE = b"""TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:18:04.0000000,1,2
"""
FRAME = pd.DataFrame({"arrival_s": [0.0, 0.052], "input_tokens": [4808, 3180], "output_tokens": [10, 8]})


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where azure-code has two rows."""
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path))
    entry = DataFile("llm/a.csv.gz", "0" * 64, tuple(FRAME.columns), 2, "here", data.compute_values_digest(FRAME))
    monkeypatch.setitem(data.FILES, "azure-code", entry)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "llm").mkdir(exist_ok=True)
    (folder / "llm/a.csv.gz").write_bytes(gzip.compress(text.encode()))


def test_a_missing_file_says_where_it_was_looked_for_and_three_ways_out(tiny):
    with pytest.raises(DataMissing) as error:
        data.load("azure-code")
    for part in (str(tiny / "llm/a.csv.gz"), "QUIVER_DATA", "data fetch azure-code", "fallback=True"):
        assert part in str(error.value)
    with pytest.raises(DataMissing):
        data.checksum("azure-code")


@pytest.mark.parametrize("text, complaint", [("x,y\n1,2\n", "lacks the column"), ("arrival_s,input_tokens,output_tokens\n1,2,3\n", "1 rows")])  # fmt: skip
def test_a_file_of_another_shape_is_damaged(tiny, text, complaint):
    write(tiny, text)
    with pytest.raises(DataDamaged, match=complaint):
        data.load("azure-code")


def test_bytes_that_are_no_gzip_are_damaged(tiny):
    write(tiny, "")
    (tiny / "llm/a.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(DataDamaged, match="not a readable CSV"):
        data.load("azure-code")
    assert data.status()[1].state == "changed"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="planetlab"):
        data.load("planet")


def test_fetch_converts_verifies_and_writes_the_same_bytes_twice(tiny, capsys):
    assert data_cli.fetch(["azure-code"], opener=lambda url: AZURE) == 0
    first = (tiny / "llm/a.csv.gz").read_bytes()
    assert data.load("azure-code").equals(FRAME)
    assert {row.name: row.state for row in data.status()}["azure-code"] == "converted"
    data_fetch.fetch("azure-code", opener=lambda url: AZURE)
    assert (tiny / "llm/a.csv.gz").read_bytes() == first
    assert not list(tiny.rglob("*.part"))


def test_fetch_writes_nothing_when_the_values_differ(tiny, capsys):
    for body in (AZURE.replace(b"4808", b"4809"), b"<html>", AZURE[:60]):
        assert data_cli.fetch(["azure-code"], opener=lambda url, body=body: body) == 1
    assert not list(tiny.rglob("*.gz"))
    assert "nothing was written" in capsys.readouterr().out


def test_offline_fetch_says_what_to_do(tiny, monkeypatch):
    def refuse(url: str, timeout: float) -> None:
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(Unavailable, match="Offline"):
        data_fetch.fetch("azure-code")


def test_an_aggregate_of_many_files_is_not_fetched():
    with pytest.raises(UsageError, match="cannot be fetched"):
        data_fetch.fetch("servegen-m-mid")


def test_every_fetchable_file_has_an_upstream_and_a_values_digest():
    assert {name for name, entry in data.FILES.items() if entry.values_sha256} == set(data_fetch.UPSTREAM)
    for upstream in data_fetch.UPSTREAM.values():
        assert all(upstream.commit in url and url.startswith("https://") for url in upstream.urls())


def test_mooncake_lines_become_rows():
    lines = [{"timestamp": 2999, "input_length": 6758, "output_length": 500, "hash_ids": [0, 7]}]
    frame = data_fetch.convert_mooncake(["\n".join(map(json.dumps, lines * 2)).encode()], 1)
    assert frame.to_dict("records") == [
        {"arrival_s": 2.999, "input_tokens": 6758, "output_tokens": 500, "block_hashes": "0 7"}
    ]


def test_matrices_become_pairs():
    planetlab = data_fetch.convert_planetlab([b"0\t1.5\t2\n1.5\t0\t3\n2\t3\t0\n", b"0\t2\t9\n2\t0\t9\n9\t9\t0\n"], 1)
    assert planetlab.to_dict("records") == [{"i": 0, "j": 1, "t1": 1.5, "t2": 2.0}]
    seattle = data_fetch.convert_seattle([b"0,0.17\n0.29,0\n"], 2)
    assert seattle.to_numpy().tolist() == [[0, 1, 170], [1, 0, 290]]


def test_status_prints_json_and_fails_while_something_is_missing(tiny, capsys):
    assert data_cli.status(json=True) == 1
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert answer["folder"] == str(tiny)
    assert {row["state"] for row in answer["files"]} == {"missing"}
    assert data_cli.status() == 1
    assert "python -m sim data fetch" in capsys.readouterr().out


def test_the_data_that_is_here_is_the_data_of_the_manifest():
    states = {row.name: row.state for row in data.status()}
    assert set(states.values()) <= {"ok", "converted", "missing"}
    for name, state in states.items():
        entry = data.FILES[name]
        if state != "missing" and entry.values_sha256 is not None:
            assert data.compute_values_digest(data.load(name)) == entry.values_sha256
