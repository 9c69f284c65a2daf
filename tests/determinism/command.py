"""A run in a process of its own: the line that replays it, its digest, and where two of them part."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.trace import first_divergence
from tests.determinism import recorded
from tests.determinism.interpreters import ROOT

# Runs at a time: the tests are meant for two cores.
PROCESSES = 2
TIMEOUT_S = 300


@dataclass(frozen=True, kw_only=True)
class Command:
    """`python -m sim ARGUMENTS` in the checkout, `PYTHONHASHSEED` set."""

    python: str
    "Path of the interpreter, absolute or relative to the checkout."
    hash_seed: int
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        """The line to paste."""
        return shlex.join(
            ["env", f"PYTHONHASHSEED={self.hash_seed}", str(self.python), "-m", "sim", *self.arguments]
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        """The summary it prints."""
        return json.loads(self._start("sim").splitlines()[-1])

    def record(self, path: Path) -> None:
        """Run it again, every row of its trace into `path`."""
        self._start("tests.determinism.recorded", str(path))

    def _start(self, module: str, *first: str) -> str:
        done = subprocess.run(
            [ROOT / self.python, "-m", module, *first, *self.arguments], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"PYTHONHASHSEED": str(self.hash_seed)}, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{self}\nexit code {done.returncode}\n{done.stderr}"
        return done.stdout


def run_all(commands: Sequence[Command]) -> list[dict[str, Any]]:
    """The summaries, in the order of the commands."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        return list(pool.map(Command.run, commands))


def check_same_digest(commands: Sequence[Command], folder: Path) -> list[dict[str, Any]]:
    """The summaries; AssertionError with two lines to replay and the first row that differs. Traces go into `folder`."""
    summaries = run_all(commands)
    for command, summary in zip(commands[1:], summaries[1:], strict=True):
        if summary["digest"] != summaries[0]["digest"]:
            raise AssertionError(
                f"same seed, different digests:\n{summaries[0]['digest']}  {commands[0]}\n"
                f"{summary['digest']}  {command}\n{explain(commands[0], command, folder)}"
            )
    return summaries


def explain(one: Command, other: Command, folder: Path) -> str:
    """The first trace row in which two runs differ."""
    paths = [folder / "one.trace", folder / "other.trace"]
    for command, path in zip((one, other), paths, strict=True):
        command.record(path)
    found = first_divergence(*map(recorded.load, paths))
    return found or "both were run again to record their traces, and those are equal: the difference comes and goes"
