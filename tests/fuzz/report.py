"""What a fuzzing run did, as a page that can be committed: commit, machine, seconds and inputs of each target, result."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one target."""

    name: str
    has_passed: bool
    inputs: int | None
    "None: it said nothing of them."
    kept: int
    "Inputs that reached something new."
    seconds: float
    "By the clock, with what it took to start."

    @property
    def line(self) -> str:
        """For the terminal."""
        inputs = "no inputs" if self.inputs is None else f"{self.inputs:,} inputs"
        return f"{self.name}: {'' if self.has_passed else 'FAILED after '}{inputs} in {self.seconds:.0f} s"


def read_outcome(name: str, returncode: int, said: str, seconds: float) -> Outcome:
    """From libFuzzer's final statistics, which a run that broke prints too."""
    statistics = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", said)}
    inputs = statistics.get("number_of_executed_units")
    return Outcome(
        name=name, has_passed=returncode == 0 and inputs is not None, inputs=inputs,
        kept=statistics.get("new_units_added", 0), seconds=seconds,
    )  # fmt: skip


def write_report(outcomes: Sequence[Outcome], seconds: int, *, is_part: bool = False) -> str:
    """Markdown. `is_part`: only some targets were run."""
    failed = [one.name for one in outcomes if not one.has_passed]
    chosen = "".join(f" {one.name}" for one in outcomes) if is_part else ""
    result = f"failed: {', '.join(failed)}" if failed else f"none of {len(outcomes)} targets failed"
    rows = [
        f"| {one.name} | {one.seconds:.0f} | {'?' if one.inputs is None else f'{one.inputs:,}'} | {one.kept:,} | "
        f"{'passed' if one.has_passed else '**failed**'} |"
        for one in outcomes
    ]
    return f"""# Fuzzing

`python -m tests.fuzz --seconds {seconds}{chosen}` at commit {_commit()}: {result}.
Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, two targets at a time.
Each target runs {seconds} s with coverage guidance, on from whatever earlier runs left in out/fuzz; a crash, 5 s without an end or
512 MB is a failure. Seconds include the start of the process.

| target | seconds | inputs | reached something new | result |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    if not commit:
        return "unknown (not a git checkout)"
    return commit + (" with local changes" if git("status", "--porcelain", "--untracked-files=no") else "")
