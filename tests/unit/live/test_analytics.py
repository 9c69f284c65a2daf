"""`analytics` reads an aggregator's store beside the running node: a table, JSON, or parquet that others can read."""

from __future__ import annotations

import asyncio

import msgspec
import pyarrow.parquet as pq
import pytest

from quiver.aggregator.usage import USAGE, Sums
from quiver.aggregator.window import epoch_key
from quiver.live.__main__ import main
from quiver.live.init import init_network
from quiver.live.stores.sqlite import SqliteStore

PROVIDERS, MODELS = (b"\x0a" * 20, b"\x0b" * 20), (b"\x01" * 32, b"\x02" * 32)
# (epoch, provider, model) -> receipts and credits
KEPT = {(7, 0, 0): (2, 20), (7, 1, 0): (1, 5), (8, 0, 0): (1, 1), (8, 0, 1): (4, 400)}


@pytest.fixture
def config(tmp_path):
    """Of an aggregator whose store is open in another hand, as a running node's is."""
    init_network(tmp_path, name="net", host="127.0.0.1", bootstrap_port=4001, aggregator_port=4002)
    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(open_store(tmp_path))
    yield str(tmp_path / "aggregator.toml")
    loop.run_until_complete(store.close())
    loop.close()


async def open_store(directory):
    store = SqliteStore(directory / "aggregator.sqlite")
    rows = {
        epoch_key(epoch) + PROVIDERS[provider] + MODELS[model]: Sums(
            receipts=receipts, prompt_tokens=1, credits=credits
        )
        for (epoch, provider, model), (receipts, credits) in KEPT.items()
    }
    await store.commit([(USAGE, key, msgspec.msgpack.encode(sums)) for key, sums in rows.items()])
    return store


def test_json_groups_by_what_was_asked(config, capsys):
    assert main(["analytics", "--config", config, "--by", "provider", "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == [
        {
            "epoch": None, "provider": "0x" + account.hex(), "model": None, "receipts": receipts, "prompt_tokens": prompt,
            "completion_tokens": 0, "credits": credits,
        }
        for account, receipts, prompt, credits in ((PROVIDERS[0], 7, 3, 421), (PROVIDERS[1], 1, 1, 5))
    ]  # fmt: skip


def test_a_table_for_people(config, capsys):
    assert main(["analytics", "--config", config, "--by", "model", "--by", "epoch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "7", "8", "8"]
    assert [line.split()[-1] for line in lines] == ["credits", "25", "1", "400"]
    assert MODELS[0].hex() in lines[1]


def test_parquet_has_one_column_for_each_field_and_is_never_overwritten(config, tmp_path, capsys):
    path = tmp_path / "usage.parquet"
    assert main(["analytics", "--config", config, "--parquet", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: 4 rows\n"
    table = pq.read_table(path)
    assert table.column_names == [
        "epoch", "provider", "model", "receipts", "prompt_tokens", "completion_tokens", "credits"
    ]  # fmt: skip
    assert table["credits"].to_pylist() == [20, 5, 1, 400] and table["epoch"].to_pylist() == [7, 7, 8, 8]
    assert main(["analytics", "--config", config, "--parquet", str(path)]) == 2
    assert "not overwritten" in capsys.readouterr().err


def test_a_store_that_is_not_there_or_not_one_is_said(config, tmp_path, capsys):
    text = (tmp_path / "aggregator.toml").read_text()
    (tmp_path / "aggregator.toml").write_text(text.replace("aggregator.sqlite", "other.sqlite"))
    assert main(["analytics", "--config", config]) == 2
    assert "has this node run yet" in capsys.readouterr().err
    (tmp_path / "other.sqlite").write_text("not a database, but long enough to look like a file of one")
    assert main(["analytics", "--config", config]) == 2
    assert "cannot read the store" in capsys.readouterr().err
