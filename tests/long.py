"""`python -m tests.long [GROUP ...]`: the tests that take minutes, a group at a time, none over 45 minutes on two cores.

Each group leaves what it saw in out/long/GROUP.json, and all that are there become one page, out/long/report.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
OUT = Path("out/long")
# `kills` of one store is a group of its own: each takes a quarter of an hour.
GROUPS: dict[str, tuple[str, ...]] = {
    "dht": ("tests/scenarios/test_dht_long.py",),
    "evm": ("tests/evm",),
    "kills-sqlite": ("tests/live/test_aggregator_crash.py", "-k", "sqlite"),
    "kills-postgres": ("tests/live/test_aggregator_crash.py", "-k", "postgres"),
    "live": ("tests/live/test_aggregator_restart.py", "tests/live/test_namespaces.py"),
    "judges": ("tests/interop", "tests/determinism"),
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Of one test."""

    name: str
    result: str
    "passed, failed or skipped."
    said: str
    "Why it failed or was skipped, or what it recorded."
    seconds: float
    "By the clock."


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a group saw."""

    commit: str
    machine: str
    load_before: float
    "Average over a minute, when it began."
    outcomes: tuple[Outcome, ...]


def run(name: str) -> Group:
    """The group's tests in a pytest of its own, whose lines go to the terminal."""
    OUT.mkdir(parents=True, exist_ok=True)
    # Of the beginning: the tree may change while it runs.
    results, load, tested = OUT / f"{name}.xml", os.getloadavg()[0], commit()
    results.unlink(missing_ok=True)
    # The older family of the format has the properties that tests record.
    form = (f"--junitxml={results}", "-o", "junit_family=xunit1")
    command = [sys.executable, "-m", "pytest", "-v", "-m", "long", *form, *GROUPS[name]]
    subprocess.run(command, check=False)
    if not results.exists():
        sys.exit(f"{name}: pytest ended without results; its last lines say why")
    outcomes = tuple(read(ET.parse(results).getroot()))
    if not outcomes:
        sys.exit(f"{name}: no test is marked long in {' '.join(GROUPS[name])}")
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    group = Group(commit=tested, machine=machine, load_before=load, outcomes=outcomes)
    (OUT / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(group)))
    return group


def read(results: ET.Element) -> list[Outcome]:
    """Every test of a JUnit file, in its order."""
    outcomes = []
    for case in results.iter("testcase"):
        told = {child.tag: child.get("message") or "" for child in case}
        recorded = "; ".join(one.get("value", "") for one in case.iter("property"))
        result = next((tag for tag in ("failure", "error", "skipped") if tag in told), None)
        outcomes.append(Outcome(
            name=f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}",
            result={None: "passed", "skipped": "skipped"}.get(result, "failed"),
            said=recorded if result is None else told[result].partition("\n")[0], seconds=float(case.get("time", "0")),
        ))  # fmt: skip
    return outcomes


def read_groups() -> dict[str, Group]:
    """What the last run of each group left; one that another version of this file wrote counts as not run."""
    groups = {}
    for name in GROUPS:
        with suppress(FileNotFoundError, msgspec.MsgspecError):
            groups[name] = msgspec.json.decode((OUT / f"{name}.json").read_bytes(), type=Group)
    return groups


def make_report(groups: dict[str, Group]) -> str:
    """Markdown: a table a group, and which groups are missing."""
    lines = ["# Long tests", "", "`make check-long`, a group at a time; seconds are by the clock."]
    for name, group in groups.items():
        lines += ["", f"## {name}: `python -m tests.long {name}`", ""]
        lines += [f"Commit {group.commit}. {group.machine}; load average before: {group.load_before:.1f}.", ""]
        lines += ["| test | seconds | result |", "|---|---|---|"]
        for one in group.outcomes:
            said = f": {one.said}".replace("|", r"\|") if one.said else ""
            lines.append(f"| `{one.name}` | {one.seconds:.0f} | {one.result}{said} |")
    if absent := [name for name in GROUPS if name not in groups]:
        lines += ["", f"Not run: {', '.join(absent)}."]
    return "\n".join(lines) + "\n"


def commit() -> str:
    """Of the working tree, and whether it was changed."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()

    head = git("rev-parse", "--short", "HEAD") or "unknown (not a git checkout)"
    return head + (" with local changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.long", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all of them by default")
    options = parser.parse_args()
    for name in options.groups:
        if name not in GROUPS:
            parser.error(f"no group is called {name!r}; there are: {', '.join(GROUPS)}")
    failed = []
    for name in options.groups or GROUPS:
        if any(one.result == "failed" for one in run(name).outcomes):
            failed.append(name)
        (OUT / "report.md").write_text(make_report(read_groups()), encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
