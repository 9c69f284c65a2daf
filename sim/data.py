"""The data folder: which measured traces the simulator can read, whether they are here, and what to do if they are not.

Rules of this file: the project holds no copy of the data; it reads `QUIVER_DATA`, by default `../shared/data` beside the
checkout. A file is known by two checksums: SHA-256 of its bytes, and of its values (so a file fetched and converted by
`sim.data_fetch` is recognised as the same data although its gzip bytes differ). Nothing is ever silently replaced by a
synthetic stand-in: the caller has to ask for that.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd

from quiver.errors import UsageError

ENVIRONMENT = "QUIVER_DATA"
REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_FOLDER = REPOSITORY.parent / "shared" / "data"


class DataFile(NamedTuple):
    """One file of the folder. `values_sha256` is known where the file can be fetched."""

    path: str
    sha256: str
    columns: tuple[str, ...]
    "The first columns; a file may have more."
    rows: int
    source: str
    "Repository @ commit, and who to cite."
    values_sha256: str | None = None


class DataMissing(UsageError):
    """A data file is not in the folder; the message says how to get it."""


class DataDamaged(UsageError):
    """A data file is there, but its columns, rows or values are not those expected."""


_REQUEST = ("arrival_s", "input_tokens", "output_tokens")
_RATES = ("client", "t_s", "rate_rps", "cv", "pattern", "param1", "param2")
_AZURE = "Azure/AzurePublicDataset @ b469a113 (CC-BY-4.0), Patel et al., Splitwise, ISCA 2024"
_SERVEGEN = "alibaba/ServeGen @ f891d118 (Apache-2.0), Xiang et al., arXiv:2505.09999"
_NETLATENCY = "uofa-rzhu3/NetLatency-Data @ a5845579 (MIT), Zhu et al., IEEE/ACM ToN 25 (2017) 724-737"
_SIMBLOCK = "dsg-titech/simblock @ 1c0e8996 (Apache-2.0), Aoki et al., 2019"

FILES: dict[str, DataFile] = {
    "azure-conv": DataFile(
        "llm/azure2023_conv_a.csv.gz", "72233c308e52de4c9a97b7da708b70980d6fd1f9095045536a4fdeb830bf8322",
        _REQUEST, 13_828, _AZURE, "49cf713a37064ce4680cc7309ddb020f74fd5007fd3444ec81e8920d6e5a8d69"),
    "azure-code": DataFile(
        "llm/azure2023_code_a.csv.gz", "85ef07ec1c9e5904265e373713fe7bb63fd4de1a820a5181be986de3fb4f9c01",
        _REQUEST, 5_353, _AZURE, "96bd5e5f859efdb62587b6e043f74ae7f3bb522ed96d27dd10e1066e625e3ef0"),
    "mooncake": DataFile(
        "llm/mooncake_conversation_a.csv.gz", "fa767a743ce5a2ca2cfe3fd51332d1e316c2c30daa1ec85a78acd2d66b71a9d9",
        (*_REQUEST, "block_hashes"), 7_851,
        "kvcache-ai/Mooncake @ 3b5a5941 (Apache-2.0), Qin et al., FAST 2025", "dd4ff32ae089c771e5d0129e20322be80cb4f878f5821e90df84121baecf8b14"),
    "servegen-deepseek-r1": DataFile(
        "llm/servegen_deepseek_r1_rates_day1.csv.gz",
        "f8a9d373396967c2c4cfb381ca1046e5a61b125063d5a0282f498c1d8e8d926c", _RATES, 3_111, _SERVEGEN),
    "servegen-m-large": DataFile(
        "llm/servegen_m_large_rates_days1to7.csv.gz",
        "598a41578a89d07055a696f44274227c4019afcb1e5aa364a590ace237ec4664", _RATES, 50_270, _SERVEGEN),
    "servegen-m-mid": DataFile(
        "llm/servegen_m_mid_rates_days1to7.csv.gz",
        "985d984903852f2c19ef5877069a161fb76dbb0199fb05aab9ef0a72bb55bd4f", _RATES, 53_107, _SERVEGEN),
    "servegen-m-small": DataFile(
        "llm/servegen_m_small_rates_days1to7.csv.gz",
        "45d98a65746e98df4cd7b21e939dbaefb940e3b6a629d8ae5c14f653a4ebbb8d", _RATES, 19_640, _SERVEGEN),
    "servegen-tokens": DataFile(
        "llm/servegen_token_quantiles_days1to7.csv.gz",
        "e4f07afb95493a68a7e42c67050e8f14bc33e785121915031e0d05c8cc0d0337", ("model", "client", "t_s"), 3_672, _SERVEGEN),
    "planetlab": DataFile(
        "net/planetlab_rtt_nodes0to244.csv.gz", "7865c7000f4045c70abb86a78721dbcf0118674e5c6b5a0f08a01c4bbf50736e",
        ("i", "j", "t1"), 29_890, _NETLATENCY, "db2d25b6a0064cd0c2c42d9f32b2c3f3dfbd10dd0a9c9328ac1917b06ba6787d"),
    "seattle": DataFile(
        "net/seattle_rtt_t1to200.csv.gz", "448624de73398e7328b002d3058b37973b1470a40013388076549da76fbb44b6",
        ("i", "j", "t1"), 9_702, _NETLATENCY, "fc910fd99fd076e3663f9cbabd071d5b8b879b45fc808fe326b2c095d74d838f"),
    "simblock-bandwidth": DataFile(
        "net/simblock_region_bandwidth_2019.csv", "80980c2886b94afb130c951fee33d3f082e676d16fdf997d33ef7c19b5dbb658",
        ("region", "download_mbps", "upload_mbps", "bitcoin_node_share"), 6, _SIMBLOCK),
    "simblock-latency": DataFile(
        "net/simblock_region_latency_2019.csv", "0814ffe403b100db80edaa956b20997f3f5b4361ffe0b10ee2cb05fef0c5b583",
        ("src", "dst", "latency_ms"), 36, _SIMBLOCK),
}  # fmt: skip


class FileStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `status()`. `state` is ok, converted (our own conversion of upstream, same values), changed or missing."""

    name: str
    path: str
    state: str
    fetchable: bool
    source: str


def folder() -> Path:
    """Where the data is looked for; it need not exist."""
    return Path(os.environ.get(ENVIRONMENT) or DEFAULT_FOLDER)


def describe(name: str) -> DataFile:
    """The manifest entry; `UsageError` lists the names there are."""
    if name not in FILES:
        raise UsageError(f"no data set is called {name!r}; there are: {', '.join(sorted(FILES))}")
    return FILES[name]


def load(name: str) -> pd.DataFrame:
    """The file as a frame, columns and row count checked. `DataMissing` and `DataDamaged` say what to do."""
    entry = describe(name)
    path = folder() / entry.path
    if not path.is_file():
        raise DataMissing(f"{name}: {path} does not exist. {_remedy(name, entry)}")
    try:
        frame = pd.read_csv(path)
    except (OSError, EOFError, ValueError) as error:
        raise DataDamaged(f"{name}: {path} is not a readable CSV ({error}). {_remedy(name, entry)}") from error
    check_frame(name, frame, str(path))
    return frame


def check_frame(name: str, frame: pd.DataFrame, where: str) -> None:
    """Raise `DataDamaged` unless `frame` has the columns and rows of the manifest."""
    entry = describe(name)
    missing = [column for column in entry.columns if column not in frame.columns]
    if missing:
        raise DataDamaged(
            f"{name}: {where} lacks the column(s) {', '.join(missing)}; it has {', '.join(frame.columns)}"
        )
    if len(frame) != entry.rows:
        raise DataDamaged(f"{name}: {where} has {len(frame)} rows, expected {entry.rows}. {_remedy(name, entry)}")


def checksum(name: str) -> str:
    """SHA-256 (hex) of the file's bytes: part of a scenario's hash. `DataMissing` if it is not there."""
    entry = describe(name)
    path = folder() / entry.path
    if not path.is_file():
        raise DataMissing(f"{name}: {path} does not exist. {_remedy(name, entry)}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compute_values_digest(frame: pd.DataFrame) -> str:
    """SHA-256 (hex) over column names and values, numbers rounded to 1e-6: survives another gzip or number format."""
    digest = hashlib.sha256()
    for column in frame.columns:
        digest.update(str(column).encode() + b"\0")
        values = frame[column].to_numpy()
        if values.dtype.kind in "iuf":
            digest.update(np.rint(values.astype(np.float64) * 1e6).astype("<i8").tobytes())
        else:
            digest.update("\n".join(map(str, values)).encode())
    return digest.hexdigest()


def status() -> list[FileStatus]:
    """One row a file, in the order of the manifest."""
    return [
        FileStatus(name=name, path=str(folder() / entry.path), state=_state(name, entry),
                   fetchable=entry.values_sha256 is not None, source=entry.source)
        for name, entry in FILES.items()
    ]  # fmt: skip


def _state(name: str, entry: DataFile) -> str:
    try:
        if checksum(name) == entry.sha256:
            return "ok"
        same = entry.values_sha256 is not None and compute_values_digest(load(name)) == entry.values_sha256
        return "converted" if same else "changed"
    except DataMissing:
        return "missing"
    except DataDamaged:
        return "changed"


def _remedy(name: str, entry: DataFile) -> str:
    fetch = f"run `python -m sim data fetch {name}`, or " if entry.values_sha256 is not None else ""
    return (
        f"Set {ENVIRONMENT} to the folder that holds {entry.path}; {fetch}ask for the synthetic twin "
        f"(fallback=True, on the command line --set fallback=true). Source: {entry.source}"
    )
