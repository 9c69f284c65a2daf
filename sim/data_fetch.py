"""Fetching data from where it was published, and cutting it to the files of `sim.data`.

Rules of this file: every URL names a commit. Upstream publishes no checksums and we know none of the raw bytes, so what is
verified is stronger for our purpose: the SHA-256 of the *converted values* must equal the manifest's, bit for bit.
A file is written only after that check. ServeGen, SimBlock and the failure reports are not fetched: see their sources.
"""

from __future__ import annotations

import csv
import gzip
import http
import http.client
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
CHUNK_BYTES = 64 * 1024
# A broken connection is taken up again so many times before we say so.
ATTEMPTS_MAX = 4
_WAYS_OUT = (
    f"Try again later, copy the data folder from another machine and set {data.ENVIRONMENT} to it, or use the synthetic twins "
    "(fallback=True)"
)

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
    """The bytes behind `url`, at most `DOWNLOAD_BYTES_MAX`; `Unavailable` says what failed and what to do.

    A connection that breaks off is taken up where it broke (RFC 9110 14.2), from the start if the server can't do that.
    """
    body, problem = b"", "nothing was received"
    for _ in range(ATTEMPTS_MAX):
        try:
            part, start, total = _read(url, len(body))
        except urllib.error.HTTPError as error:
            raise Unavailable(
                f"cannot download {url}: the server answered {error.code} {error.reason}. {_WAYS_OUT}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", "") or error)
            continue
        body = body[:start] + part
        if len(body) > DOWNLOAD_BYTES_MAX:
            raise data.DataDamaged(f"{url} is larger than {DOWNLOAD_BYTES_MAX} bytes: not the file we know")
        if total is None or len(body) == total:
            return body
        problem = f"the connection broke off after {len(body)} of {total} bytes"
    raise Unavailable(f"cannot download {url}: {problem}, {ATTEMPTS_MAX} times. Offline? {_WAYS_OUT}")


def _read(url: str, have: int) -> tuple[bytes, int, int | None]:
    """(bytes, where they start, length of the whole if the server says so)."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S) as answer:
        length = answer.headers.get("Content-Length")
        start = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        part = b""
        try:
            while len(part) <= DOWNLOAD_BYTES_MAX and (more := answer.read(CHUNK_BYTES)):
                part += more
        except (OSError, http.client.HTTPException):
            # What came is good; the caller asks for the rest.
            if length is None:
                raise
        return part, start, None if length is None else start + int(length)


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
    digest = data.compute_values_digest(frame)
    if digest != entry.values_sha256:
        raise data.DataDamaged(
            f"{name}: {upstream.urls()[0]} has values of SHA-256 {digest}, expected {entry.values_sha256}: it is not the file "
            "the project was tested with; nothing was written"
        )
    path = (folder or data.folder()) / entry.path
    # mtime=0: the same data gives the same bytes on every machine.
    _write(path, gzip.compress(frame.to_csv(index=False, lineterminator="\n").encode(), mtime=0))
    return path


def _write(path: Path, content: bytes) -> None:
    """All or nothing."""
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write {path} ({error.strerror}). Set {data.ENVIRONMENT} to a folder that you may write to"
        ) from error
