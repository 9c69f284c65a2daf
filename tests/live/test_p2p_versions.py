"""Two versions of this program in one network, either one being there first: they talk, or refuse each other by name.

The older one is taken out of the git history into a temporary folder; without that history there is nothing to compare with.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quiver.live import init
from quiver.live.devnet import devnet_params
from quiver.live.devnet_ports import free_ports
from tests.live.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# The commit before the hash of the network went into every protocol id.
BEFORE_PREFIX = "e917bd6144e041d4b0d283465ccc127fca543088"
# Lines of `init` that it can't read; nothing that these tests look at depends on them.
NEWER = ("hash", "kind", "faucet_credits")


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, timeout=30).stdout


def source_of(commit: str, directory: Path) -> Path:
    """That version's package, or a skip that says why there is none."""
    try:
        archive = git("archive", commit, "quiver")
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", b"").decode().strip() or str(error)
        pytest.skip(f"no version {commit[:7]} in this checkout (a shallow clone has no history): {told}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(directory, filter="data")
    return directory


def last_change_of(path: str) -> str:
    """The commit since which `path` is as it is now."""
    try:
        return git("log", "-1", "--format=%H", "--", path).decode().strip() or "HEAD"
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no git history here: {error}")


@contextmanager
def running(source: Path, role: str, directory: Path):
    """A node of that version; yields a function that reads its log."""
    log = directory / f"{role}.out"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "quiver.live", "--until-stdin-ends", role, "--config", f"{role}.toml"], cwd=directory,
            env={**os.environ, "PYTHONPATH": str(source)}, stdin=subprocess.PIPE, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield lambda: [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    finally:
        process.terminate()
        process.wait(10)
        process.stdin.close()


def make_network(directory: Path, *, is_old: bool) -> None:
    """`is_old`: its files say nothing that the oldest version does not know, and its hash is of fewer constants."""
    bootstrap, aggregator = free_ports(2)
    init.init_network(
        directory, name="two versions", host="127.0.0.1", bootstrap_port=bootstrap, aggregator_port=aggregator,
        params=devnet_params(5000),
    )  # fmt: skip
    for path in directory.glob("*.toml") if is_old else ():
        lines = path.read_text().splitlines(True)
        path.write_text("".join(line for line in lines if not line.startswith(NEWER)))


def messages(log, start):
    return [line["message"] for line in log() if line["message"].startswith(start)]


@pytest.mark.parametrize("newcomer", ["HEAD", "old"])
def test_the_oldest_version_with_these_constants_talks_to_this_one(newcomer, tmp_path):
    old = source_of(last_change_of("quiver/params.py"), tmp_path / "old")
    make_network(tmp_path / "net", is_old=False)
    first, second = (old, ROOT) if newcomer == "HEAD" else (ROOT, old)
    with ExitStack() as stack:
        stack.enter_context(running(first, "bootstrap", tmp_path / "net"))
        log = stack.enter_context(running(second, "aggregator", tmp_path / "net"))
        until(lambda: messages(log, "joined"), "the older version's network, joined")


@pytest.mark.parametrize("newcomer", ["HEAD", "old"])
def test_a_version_whose_protocols_name_no_network_is_refused_by_name(newcomer, tmp_path):
    old = source_of(BEFORE_PREFIX, tmp_path / "old")
    make_network(tmp_path / "net", is_old=True)
    # Each on a machine of its own: the file of the local ledger would refuse the other's constants first.
    shutil.copytree(tmp_path / "net", tmp_path / "net2")
    first, second = (old, ROOT) if newcomer == "HEAD" else (ROOT, old)
    with ExitStack() as stack:
        host = stack.enter_context(running(first, "bootstrap", tmp_path / "net"))
        guest = stack.enter_context(running(second, "aggregator", tmp_path / "net2"))
        ours = guest if newcomer == "HEAD" else host
        (told, *_) = until(lambda: messages(ours, "turned away"), "the refusal in our log")
        assert "another network or version: it speaks /quiver/kad/1.0.0, and here it is /quiver/" in told
        until(lambda: messages(guest, "not joined yet"), "the refusal in the newcomer's log")
        if newcomer == "HEAD":
            until(
                lambda: [one for one in messages(guest, "not joined yet") if "it speaks" in one],
                "why, beside the error",
            )
        assert not messages(guest, "joined")
