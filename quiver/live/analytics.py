"""`python -m quiver.live analytics`: what an aggregator's providers served, from its store, as a table, JSON or a parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from quiver.aggregator.usage import UsageRow, summarise
from quiver.errors import UsageError
from quiver.live import config, config_file, keyfile
from quiver.live.stores.reader import open_to_read, readable

_SUMS = ("receipts", "prompt_tokens", "completion_tokens", "credits")
_SCHEMA = pa.schema(
    [("epoch", pa.int64()), ("provider", pa.string()), ("model", pa.string()), *((name, pa.int64()) for name in _SUMS)]
)


async def read_usage(config_path: Path, by: Sequence[str]) -> list[UsageRow]:
    """Rows of the aggregator whose config this is, grouped by `by`."""
    loaded = config_file.load(config_path, config.AggregatorConfig)
    path = config_file.resolve(config_path, loaded.store)
    store = open_to_read(loaded.store, path, keyfile.load(config_file.resolve(config_path, loaded.key)).peer_id)
    try:
        with readable(path):
            return summarise(store, by)
    finally:
        await store.close()


def write_parquet(rows: Sequence[UsageRow], path: Path) -> None:
    """One column for each field; a column that was not grouped by is null. Never overwrites."""
    if path.exists():
        raise UsageError(f"{path} is already there and is not overwritten: choose another name")
    table = pa.Table.from_pylist([msgspec.structs.asdict(row) for row in rows], schema=_SCHEMA)
    try:
        pq.write_table(table, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from error


def render(rows: Sequence[UsageRow], by: Sequence[str]) -> str:
    """A table for people: the groups, then the sums."""
    if not rows:
        return "no receipts are kept"
    columns = [*(name for name in ("epoch", "provider", "model") if name in by), *_SUMS]
    lines = [columns, *([str(getattr(row, name)) for name in columns] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in _SUMS else cell.ljust(width)
            for cell, width, name in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


async def run(config_path: Path, *, by: Sequence[str], as_json: bool, parquet: Path | None) -> str:
    """What to print."""
    rows = await read_usage(config_path, by)
    if parquet is not None:
        write_parquet(rows, parquet)
        return f"{parquet}: {len(rows)} rows"
    return msgspec.json.encode(rows).decode() if as_json else render(rows, by)
