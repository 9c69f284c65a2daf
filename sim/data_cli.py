"""What `python -m sim data status|fetch` prints. The exit code is the return value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from quiver.errors import QuiverError
from sim import data, data_fetch


def status(json: bool = False) -> int:
    """Print one line a data set (or JSON); 0 when all are there and unchanged, 1 otherwise."""
    rows = data.status()
    if json:
        print(msgspec.json.encode({"folder": str(data.folder()), "files": rows}).decode())
    else:
        print(f"data folder: {data.folder()}")
        for row in rows:
            hint = "" if row.state in {"ok", "converted"} or not row.fetchable else "  (python -m sim data fetch)"
            print(f"{row.state:<10} {row.name:<22} {row.source}{hint}")
    return 0 if all(row.state in {"ok", "converted"} for row in rows) else 1


def fetch(
    names: Sequence[str] = (), *, folder: Path | None = None, opener: data_fetch.Opener = data_fetch.download
) -> int:
    """Fetch the named data sets, or every missing one that can be fetched; 0 when all succeeded."""
    wanted = list(names) or [row.name for row in data.status() if row.fetchable and row.state == "missing"]
    if not wanted:
        print("nothing to fetch: every data set that can be fetched is here")
    failures = 0
    for name in wanted:
        try:
            print(f"{name}: {data_fetch.fetch(name, folder=folder, opener=opener)}")
        except QuiverError as error:
            failures += 1
            print(f"{name}: {error}")
    return 1 if failures else 0
