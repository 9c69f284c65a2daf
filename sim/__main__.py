"""`python -m sim`: list scenarios, run one, look after the data folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quiver.errors import QuiverError, UsageError
from quiver.params import Params
from sim import data_cli
from sim.scenario import Scenario

EXAMPLES = """examples:
  python -m sim list
  python -m sim run tour
  python -m sim run azure-planetlab --seed 3 --set providers=200 --set policy=peak-ewma --out out/run
  python -m sim run tour --json | tail -n 1
  python -m sim data status
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="scenarios and what they are").add_argument("--json", action="store_true")
    run = commands.add_parser(
        "run",
        help="run a scenario",
        epilog=f"{EXAMPLES}\n{describe_fields()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("name", help="a name that `list` shows")
    run.add_argument("--seed", type=int, default=1, help="default 1")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another value for a field; repeatable"
    )
    run.add_argument("--out", type=Path, metavar="FOLDER", help="write parquet frames and manifest.json into it")
    run.add_argument("--json", action="store_true", help="the last line on stdout is one JSON object")
    data = commands.add_parser(
        "data",
        help="the folder of real traces",
        description="Exit code 1 while a data set is missing, changed or not fetched.",
    )
    data.add_argument("action", choices=["status", "fetch"])
    data.add_argument("names", nargs="*", help="data sets to fetch; all that are missing by default")
    data.add_argument("--json", action="store_true")
    return parser


def run_scenario(name: str, seed: int, settings: Sequence[str], out: Path | None) -> dict[str, Any]:
    """The summary of one run; what it leaves is in `out`."""
    scenario = Scenario.named(name).with_settings(settings)
    if out is not None:
        check_writable(out)
    if name == "kademlia-10k":
        from sim.kademlia_run import run_kademlia_scenario
        from sim.result import make_manifest, write_manifest

        summary = run_kademlia_scenario(scenario, seed)
        if out is not None:
            write_manifest(out, make_manifest(scenario, summary, f"topology {scenario.topology}"))
        return summary
    from sim.world import World

    result = World(scenario, seed).run(progress=sys.stderr.isatty())
    if out is not None:
        result.save(out)
    return result.summary


def check_writable(directory: Path) -> None:
    """Before minutes of simulation, not after them."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UsageError(
            f"cannot write into {directory} ({error.strerror}): give --out a folder that you may write to"
        ) from error


def describe_fields() -> str:
    """Fields that `--set` takes, each with its default."""
    told = [
        f"{f.name}={getattr(Scenario(), f.name)}"
        for f in dataclasses.fields(Scenario)
        if f.name not in ("name", "params")
    ]
    text = textwrap.fill(", ".join(told), 100, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
    constants = textwrap.fill(", ".join(Params.__struct_fields__), 100, initial_indent="  ", subsequent_indent="  ")
    return f"fields of a scenario and their defaults (docs/extend.md says what can be plugged in):\n{text}\n" + (
        f"constants of the protocol (quiver/params.py):\n{constants}\n"
    )


def print_summary(summary: dict[str, Any]) -> None:
    """For people."""
    for key, value in summary.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        elif isinstance(value, float):
            value = f"{value:,.3f}"
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        print(f"{key:<18} {value}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 if data is missing (`data`); 2 with one line that says what is wrong; 130 when stopped."""
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "list":
            names = Scenario.names()
            print(
                json.dumps(names) if options.json else "\n".join(f"{name:<18} {text}" for name, text in names.items())
            )
            return 0
        if options.command == "data":
            if options.action == "status":
                return data_cli.status(json=options.json)
            return data_cli.fetch(options.names)
        summary = run_scenario(options.name, options.seed, options.set, options.out)
        print(json.dumps(summary)) if options.json else print_summary(summary)
    except QuiverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
