"""Fetching data from where it was published, and cutting it to the files of `sim.data`.

Rules of this file: every URL names a commit. Upstream publishes no checksums and we know none of the raw bytes, so what is
verified is stronger for our purpose: the SHA-256 of the *converted values* must equal the manifest's, bit for bit.
A file is written only after that check. ServeGen, SimBlock and the failure reports are not fetched: see their sources.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from quiver.errors import Unavailable, UsageError
from sim import data

HOST = "https://raw.githubusercontent.com"
DOWNLOAD_TIMEOUT_S = 60.0
DOWNLOAD_BYTES_MAX = 64 * 1024 * 1024

Opener = Callable[[str], bytes]
Converter = Callable[[Sequence[bytes], int], pd.DataFrame]


class Upstream(NamedTuple):
    """Where a data set comes from: `convert(raw files, rows)` gives our columns."""

    repository: str
    commit: str
    paths: tuple[str, ...]
    convert: Converter

    def urls(self) -> list[str]:
        """One a file, pinned to the commit."""
        return [f"{HOST}/{self.repository}/{self.commit}/{path}" for path in self.paths]


def convert_azure(raw: Sequence[bytes], rows: int) -> pd.DataFrame:
    """TIMESTAMP,ContextTokens,GeneratedTokens with 100 ns stamps -> seconds since the first row, first `rows` rows."""
    table = list(csv.reader(io.StringIO(raw[0].decode())))[1 : rows + 1]
    stamps = [_microseconds(row[0]) for row in table]
    return pd.DataFrame({
        "arrival_s": [(stamp - stamps[0]) / 1e6 for stamp in stamps],
        "input_tokens": [int(row[1]) for row in table],
        "output_tokens": [int(row[2]) for row in table],
    })  # fmt: skip


def _microseconds(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    moment = datetime.fromisoformat(seconds)
    return round((moment - datetime(1970, 1, 1)).total_seconds()) * 1_000_000 + int(f"{fraction:0<6}"[:6])


def convert_mooncake(raw: Sequence[bytes], rows: int) -> pd.DataFrame:
    """JSON lines with millisecond ticks -> seconds, first `rows` rows."""
    records = [json.loads(line) for line in raw[0].splitlines()[:rows]]
    return pd.DataFrame({
        "arrival_s": [record["timestamp"] / 1000 for record in records],
        "input_tokens": [record["input_length"] for record in records],
        "output_tokens": [record["output_length"] for record in records],
        "block_hashes": [" ".join(map(str, record["hash_ids"])) for record in records],
    })  # fmt: skip


def convert_planetlab(raw: Sequence[bytes], rows: int) -> pd.DataFrame:
    """Tab-separated square matrices in ms, one a time slice -> the upper triangle of the first nodes, `rows` pairs."""
    count = round((1 + (1 + 8 * rows) ** 0.5) / 2)
    i, j = np.triu_indices(count, 1)
    slices = {f"t{index}": _matrix(text, "\t")[i, j] for index, text in enumerate(raw, 1)}
    return pd.DataFrame({"i": i, "j": j, **slices})


def convert_seattle(raw: Sequence[bytes], rows: int) -> pd.DataFrame:
    """Comma-separated square matrices in seconds, one a time slice -> directed pairs in ms."""
    count = round((1 + (1 + 4 * rows) ** 0.5) / 2)
    i, j = np.nonzero(~np.eye(count, dtype=bool))
    slices = {f"t{index}": np.rint(_matrix(text, ",")[i, j] * 1000).astype(int) for index, text in enumerate(raw, 1)}
    return pd.DataFrame({"i": i, "j": j, **slices})


def _matrix(text: bytes, separator: str) -> np.ndarray:
    rows: list[list[float]] = [
        [float(cell) for cell in line.split(separator) if cell.strip()] for line in text.decode().splitlines() if line
    ]
    return np.array(rows)


_AZURE = ("Azure/AzurePublicDataset", "b469a113cedca53ddc3bdea71a143dc4b7d8700c")
_NETLATENCY = ("uofa-rzhu3/NetLatency-Data", "a5845579654bf3b7f191d2697c0de24ec485b8e9")

UPSTREAM: dict[str, Upstream] = {
    "azure-conv": Upstream(*_AZURE, ("data/AzureLLMInferenceTrace_conv.csv",), convert_azure),
    "azure-code": Upstream(*_AZURE, ("data/AzureLLMInferenceTrace_code.csv",), convert_azure),
    "mooncake": Upstream(
        "kvcache-ai/Mooncake", "3b5a594133958449a1feaf1c9e0fc1b553e34a28",
        ("FAST25-release/traces/conversation_trace.jsonl",), convert_mooncake),
    "planetlab": Upstream(
        *_NETLATENCY, tuple(f"PlanetLab/PlanetLabData_{t}" for t in range(1, 19)), convert_planetlab),
    "seattle": Upstream(*_NETLATENCY, tuple(f"Seattle/SeattleData_{t}" for t in range(1, 201)), convert_seattle),
}  # fmt: skip


def download(url: str) -> bytes:
    """The bytes behind `url`, at most `DOWNLOAD_BYTES_MAX`; `Unavailable` says what failed and what to do."""
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer:
            body: bytes = answer.read(DOWNLOAD_BYTES_MAX + 1)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise Unavailable(
            f"cannot download {url} ({error}). Offline? Copy the data folder from another machine and set "
            f"{data.ENVIRONMENT} to it, or use the synthetic twins (fallback=True)"
        ) from error
    if len(body) > DOWNLOAD_BYTES_MAX:
        raise data.DataDamaged(f"{url} is larger than {DOWNLOAD_BYTES_MAX} bytes: not the file we know")
    return body


def fetch(name: str, *, folder: Path | None = None, opener: Opener = download) -> Path:
    """Download, convert, verify and write one data set; returns its path. Nothing is written unless the values match."""
    entry = data.describe(name)
    if name not in UPSTREAM:
        raise UsageError(
            f"{name} cannot be fetched (it is an aggregate of many upstream files). Copy {entry.path} into the data "
            f"folder from a machine that has it, or use the synthetic twin. Source: {entry.source}"
        )
    upstream = UPSTREAM[name]
    raw = [opener(url) for url in upstream.urls()]
    try:
        frame = upstream.convert(raw, entry.rows)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise data.DataDamaged(
            f"{name}: upstream {upstream.urls()[0]} is not in the known format ({error!r})"
        ) from error
    data.check_frame(name, frame, upstream.urls()[0])
    if data.compute_values_digest(frame) != entry.values_sha256:
        raise data.DataDamaged(
            f"{name}: the values of {upstream.urls()[0]} differ from the manifest; nothing was written"
        )
    path = (folder or data.folder()) / entry.path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    # mtime=0: the same data gives the same bytes on every machine.
    temporary.write_bytes(gzip.compress(frame.to_csv(index=False, lineterminator="\n").encode(), mtime=0))
    temporary.replace(path)
    return path
