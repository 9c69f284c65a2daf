"""`python -m sim`: list scenarios, run one, look after the data folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quiver.errors import QuiverError
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
        "run", help="run a scenario", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run.add_argument("name", help="a name that `list` shows")
    run.add_argument("--seed", type=int, default=1, help="default 1")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another value for a field; repeatable"
    )
    run.add_argument("--out", type=Path, help="write parquet frames and manifest.json into this folder")
    run.add_argument("--json", action="store_true", help="the last line on stdout is one JSON object")
    data = commands.add_parser("data", help="the folder of real traces")
    data.add_argument("action", choices=["status", "fetch"])
    data.add_argument("names", nargs="*", help="data sets to fetch; all that are missing by default")
    data.add_argument("--json", action="store_true")
    return parser


def run_scenario(name: str, seed: int, settings: Sequence[str], out: Path | None) -> dict[str, Any]:
    """The summary of one run."""
    scenario = Scenario.named(name).with_settings(settings)
    if name == "kademlia-10k":
        from sim.kademlia_run import run_kademlia_scenario

        return run_kademlia_scenario(scenario, seed)
    from sim.world import World

    result = World(scenario, seed).run(progress=sys.stderr.isatty())
    if out is not None:
        result.save(out)
    return result.summary


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
    """Exit code 0, or 2 with one line that says what is wrong."""
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
