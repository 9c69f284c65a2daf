"""`python -m tests.bench [--quick] [--only loop,quic] [--out DIR]`: measure, write JSON rows and report.md; exit 1 on a FAIL."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.bench import rows_gas, rows_live, rows_loop, rows_makers, rows_quic, rows_settlement, rows_worlds
from tests.bench.report import Machine, Row, compute_interval, make_report

GROUPS: dict[str, Callable[..., list[Row]]] = {
    "gas": rows_gas.rows,
    "loop": rows_loop.rows,
    "quic": rows_quic.rows,
    "live": rows_live.rows,
    "makers": rows_makers.rows,
    "settlement": rows_settlement.rows,
    "requests": rows_worlds.request_rows,
    "kademlia": rows_worlds.kademlia_rows,
    "kademlia-encoded": rows_worlds.kademlia_encoded_rows,
}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _commit() -> str:
    commit = _git("rev-parse", "HEAD") or "not a git checkout"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "quiver", "sim", "tests/bench")
    return f"{commit} with {len(changed.splitlines())} changed files" if changed else commit


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _write(out: Path, group: str, rows: list[Row]) -> None:
    data = [
        asdict(row) | {"ratio": row.ratio, "interval": compute_interval(row.ratios), "met": row.met} for row in rows
    ]
    (out / f"{group}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller worlds, fewer repetitions")
    parser.add_argument("--only", default=",".join(GROUPS), help="comma-separated: " + ", ".join(GROUPS))
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    groups = options.only.split(",")
    for group in groups:
        if group not in GROUPS:
            parser.error(f"no group is called {group!r}; there are: {', '.join(GROUPS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    report = options.out / "report.md"
    load_before, commit = os.getloadavg(), _commit()
    rows: list[Row] = []
    for group in groups:
        command = f"python -m tests.bench --only {group}" + (" --quick" if options.quick else "")
        measured = GROUPS[group](quick=options.quick, command=command)
        for row in measured:
            print(f"{row.met:6} {row.ratio:7.3g}  {row.name}: {row.ours}", flush=True)
        _write(options.out, group, measured)
        rows += measured
        machine = Machine(
            commit=commit, cpu=_cpu(), cores=os.cpu_count() or 1,
            python=f"{platform.python_implementation()} {platform.python_version()}",
            load_before=load_before, load_after=os.getloadavg(),
        )  # fmt: skip
        # After each group, so that an interrupted run leaves what it measured.
        report.write_text(make_report(rows, machine), encoding="utf-8")
    print(f"wrote {report}")
    return 1 if any(row.met == "FAIL" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
