"""The stores of a network that ran the code of an older commit: its own processes, its own clients, ended by kill -9."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The last commit before stores had a version: every store up to it says 0.
BEFORE_VERSIONS = "a11ae629764f4e148188d024c4f1b3fda44616a2"
RUN_S = 120.0

# Run by the older code's own interpreter path: nothing of this version may be imported here.
_STORY = """
import json, pathlib, sys, time, urllib.request
from quiver.live.devnet import MOCK_MODEL, Devnet

network = Devnet(sys.argv[1], providers=2, epoch_ms=2000, speed=0.0)
log = pathlib.Path(sys.argv[1]) / "aggregator.log"

def ask():
    body = json.dumps({"model": MOCK_MODEL, "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 8})
    request = urllib.request.Request(
        network.gateway_url + "/v1/chat/completions", body.encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=30).read()

with network:
    deadline = time.monotonic() + 60
    while "EpochCommitted" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        ask()
        time.sleep(0.1)
    taken = log.read_text().count("ReceiptsIngested")
    while log.read_text().count("ReceiptsIngested") == taken:
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        ask()
        time.sleep(0.1)
    for name in reversed(network.processes):
        network.kill(name)
"""


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In the project's history."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def releases() -> list[str]:
    """The newest tag before this commit, if there is any, and the last commit before versions."""
    tag = git("describe", "--tags", "--abbrev=0", "HEAD^").stdout.strip()
    return [*filter(None, [tag]), BEFORE_VERSIONS]


def run_old_network(commit: str, directory: Path) -> Path:
    """The network's directory. Skipped, with the reason, where the history is not there; under CI=true that fails."""
    if git("cat-file", "-e", f"{commit}^{{commit}}").returncode != 0:
        message = f"commit {commit[:12]} is not here: get the whole history (git fetch --unshallow)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    archive = directory / "old.tar"
    assert git("archive", "-o", str(archive), commit, "quiver").returncode == 0
    with tarfile.open(archive) as packed:
        packed.extractall(directory / "old", filter="data")
    network = directory / "network"
    done = subprocess.run(
        [sys.executable, "-c", _STORY, str(network)], cwd=directory / "old", capture_output=True, text=True, timeout=RUN_S,
        env={**os.environ, "PYTHONPATH": str(directory / "old")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return network
