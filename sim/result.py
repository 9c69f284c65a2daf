"""What a run leaves: frames, a summary, the digest and a manifest. Statistics over several runs: `Runs`."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd

import quiver
from sim.collect import EpochRow, EvidenceRow, ProviderRow, RequestRow
from sim.plot import Plotter, describe_runs
from sim.plug import plug_name
from sim.table import make_record, show_seconds

if TYPE_CHECKING:
    from sim.scenario import Scenario
    from sim.world import World

FRAMES = ("requests", "providers", "epochs", "evidence")
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


# As parquet gives them back.
_TEXT = pd.StringDtype(na_value=np.nan)
_DTYPES: dict[str, Any] = {
    "int": "int64", "float": "float64", "float | None": "float64", "bool": "bool", "str": _TEXT, "str | None": _TEXT,
}  # fmt: skip


def make_frame(rows: Sequence[msgspec.Struct], kind: type[msgspec.Struct]) -> pd.DataFrame:
    """One row a struct; columns, order and types are those of its fields, with no rows too, and after parquet."""
    frame = pd.DataFrame([msgspec.structs.astuple(row) for row in rows], columns=list(kind.__struct_fields__))
    return frame.astype({name: _DTYPES[annotation] for name, annotation in kind.__annotations__.items()})


def compute_quantiles(values: pd.Series) -> dict[str, float | None]:
    """p50, p95, p99 of what is not missing; None without any."""
    clean = values.dropna().astype(float)
    return {name: float(np.quantile(clean, q)) if len(clean) else None for name, q in QUANTILES.items()}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run."""

    requests: pd.DataFrame
    providers: pd.DataFrame
    epochs: pd.DataFrame
    evidence: pd.DataFrame
    summary: dict[str, Any]
    manifest: dict[str, Any]
    digest: str

    @classmethod
    def of(cls, world: World, *, wall_s: float, cpu_s: float, peak_rss_bytes: int) -> Result:
        """Collect what a finished world knows."""
        collector, scenario = world.collector, world.scenario
        requests = make_frame(list(collector.requests.values()), RequestRow)
        # The world took these clients away when its time was up; to the gateway they left.
        requests.loc[requests["finished_s"].isna(), "outcome"] = "unfinished"
        providers = make_frame(world.population.make_provider_rows(collector), ProviderRow)
        epochs = make_frame(collector.epochs, EpochRow)
        evidence = make_frame(world.population.make_evidence_rows(collector), EvidenceRow)
        counted = requests[requests["arrived_s"] >= scenario.warmup_s]
        completed = counted[counted["outcome"] == "completed"]
        outcomes = counted["outcome"].value_counts()
        digest = world.trace.digest()
        topology = world.population.topology
        label = "real" if world.workload.label == topology.label == "real" else "synthetic"
        summary = {
            "scenario": scenario.name, "scenario_hash": world.scenario_hash, "seed": world.seed, "digest": digest,
            "policy": collector.policy, "data": label,
            "fidelity": {
                "frames": scenario.frames, "signatures": scenario.signatures, "chunks": scenario.chunks,
                "transport": "message", "service": plug_name(scenario.service),
            },
            "nodes": scenario.providers + scenario.gateways + 1, "requests": len(counted),
            "completed": int(outcomes.get("completed", 0)), "rejected": int(outcomes.get("rejected", 0)),
            "failed": int(outcomes.get("failed", 0)), "cancelled": int(outcomes.get("cancelled", 0)),
            "unfinished": int(outcomes.get("unfinished", 0)),
            "ttft_s": compute_quantiles(completed["ttft_s"]), "tpot_s": compute_quantiles(completed["tpot_s"]),
            "e2e_s": compute_quantiles(completed["e2e_s"]), "prompt_tokens": int(completed["prompt_tokens"].sum()),
            "completion_tokens": int(completed["completion_tokens"].sum()), "receipts": collector.receipts,
            "receipts_ingested": collector.ingested, "epochs": len(epochs),
            "credits_owed": int(providers["earned_credits"].sum()),
            "credits_paid": int(providers["claimed_credits"].sum()), "lookups": collector.lookups,
            "lookups_found": collector.lookups_found, "messages": world.trace.frames, "events": world.env.entries,
            "evidence": len(collector.evidence), "sim_s": world.env.now, "cpu_s": cpu_s, "wall_s": wall_s,
            "peak_rss_bytes": peak_rss_bytes,
        }  # fmt: skip
        return cls(
            requests=requests, providers=providers, epochs=epochs, evidence=evidence, summary=summary, digest=digest,
            manifest=make_manifest(
                scenario, summary, f"{world.workload.note}; topology {topology.name} ({topology.label})"
            ),
        )  # fmt: skip

    def save(self, directory: Path | str) -> Path:
        """Parquet files and manifest.json; returns the directory."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name in FRAMES:
            getattr(self, name).to_parquet(directory / f"{name}.parquet", index=False)
        # The manifest comes last: where there is one, the rows are complete.
        write_manifest(directory, self.manifest)
        return directory

    @classmethod
    def load(cls, directory: Path | str) -> Result:
        """What `save` wrote."""
        directory = Path(directory)
        manifest = json.loads((directory / "manifest.json").read_text())
        frames = {name: pd.read_parquet(directory / f"{name}.parquet") for name in FRAMES}
        summary = manifest["summary"]
        return cls(**frames, summary=summary, manifest=manifest, digest=summary["digest"])

    def explain(self, request_id: str) -> pd.Series:
        """The row of one request; `request_id` may be its beginning."""
        rows = self.requests[self.requests["request_id"].str.startswith(request_id)]
        if len(rows) != 1:
            raise KeyError(f"{len(rows)} requests begin with {request_id!r}; give more digits")
        return rows.iloc[0]

    @property
    def plot(self) -> Plotter:
        """Figures: `result.plot.cdf("ttft_s")`."""
        return Plotter(self.requests, note=describe_runs([self.summary]))

    def _repr_html_(self) -> str:
        s = self.summary
        rows = {
            "scenario": f"{s['scenario']} (seed {s['seed']}, {s['data']} data, simulated)",
            "requests": f"{s['completed']:,} of {s['requests']:,} completed",
            "TTFT p50 / p99": f"{show_seconds(s['ttft_s']['p50'])} / {show_seconds(s['ttft_s']['p99'])}",
            "credits paid": s["credits_paid"],
            "digest": s["digest"][:16],
        }
        return make_record(rows)


def make_manifest(scenario: Scenario, summary: dict[str, Any], data_note: str) -> dict[str, Any]:
    """What is needed to run it again and to judge it."""
    packages = ("simpy", "numpy", "pandas", "networkx", "msgspec", "aioquic")
    return {
        "scenario": scenario.describe(), "summary": summary, "data_note": data_note, "quiver": quiver.__version__,
        "git_commit": _git_commit(), "code": hash_code(), "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "replay": scenario.write_command(summary["seed"]),
    }  # fmt: skip


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """manifest.json, whole or not at all."""
    partial = directory / "manifest.json.part"
    partial.write_text(json.dumps(manifest, indent=2) + "\n")
    partial.replace(directory / "manifest.json")


@cache
def hash_code() -> str:
    """16 hex digits over the sources of `quiver` and `sim`: stored rows of other code are not reused."""
    root = Path(quiver.__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("quiver", "sim") for path in (root / package).rglob("*.py")):
        if "live" not in path.relative_to(root).parts:
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
