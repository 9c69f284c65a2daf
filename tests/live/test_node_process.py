"""One node as a process: how it ends, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quiver.live import config
from quiver.live.devnet import make_environment
from quiver.live.devnet_ports import free_ports
from quiver.live.init import init_network
from quiver.live.node import opened
from quiver.params import Params


@pytest.fixture
def directory(tmp_path):
    bootstrap, aggregator = free_ports(2)
    init_network(tmp_path, name="net", host="127.0.0.1", bootstrap_port=bootstrap, aggregator_port=aggregator)
    return tmp_path


def start(directory, *, watch=False):
    """A bootstrap node that is up."""
    command = [
        sys.executable,
        "-m",
        "quiver.live",
        *(["--until-stdin-ends"] if watch else []),
        "bootstrap",
        "--config",
        "bootstrap.toml",
    ]
    node = subprocess.Popen(
        command, cwd=directory, env=make_environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while "joined" not in (line := node.stderr.readline()):
        assert line, "the node ended before it was up"
    return node


def end(node):
    """Exit code and the rest of its standard error."""
    rest = node.communicate(timeout=10)[1]
    return node.returncode, rest


def test_a_node_ends_when_its_parent_is_gone(directory):
    node = start(directory, watch=True)
    node.stdin.close()
    node.stdin = None
    assert end(node)[0] == 0


def test_a_signal_stops_a_node_and_a_second_one_finds_its_store_and_port_taken(directory):
    node = start(directory)
    other = subprocess.run(
        [sys.executable, "-m", "quiver.live", "bootstrap", "--config", "bootstrap.toml"],
        cwd=directory, env=make_environment(), capture_output=True, text=True, timeout=10,
    )  # fmt: skip
    assert other.returncode == 2 and "in use by another process" in other.stderr
    assert len(other.stderr.splitlines()) == 1
    node.send_signal(signal.SIGTERM)
    code, rest = end(node)
    assert code == 0 and "stopping" in rest


def test_an_aggregator_with_another_key_is_refused(directory):
    (directory / "aggregator.key").unlink()
    (directory / "bootstrap.key").rename(directory / "aggregator.key")
    done = subprocess.run(
        [sys.executable, "-m", "quiver.live", "aggregator", "--config", "aggregator.toml"],
        cwd=directory, env=make_environment(), capture_output=True, text=True, timeout=10,
    )  # fmt: skip
    assert done.returncode == 2 and "use the aggregator's own key file" in done.stderr.splitlines()[-1]


def test_the_networks_constants_bound_the_nodes_connections(tmp_path):
    ports = dict(zip(("bootstrap_port", "aggregator_port"), free_ports(2), strict=True))
    params = Params(stream_window_bytes=12_345, streams_per_peer_max=67, dial_timeout_s=8.9)
    init_network(tmp_path, name="net", host="127.0.0.1", params=params, **ports)
    path = tmp_path / "bootstrap.toml"

    async def story():
        async with opened(config.load_any(path), path) as node:
            return node.runtime.transport.limits

    limits = asyncio.run(story())
    assert (limits.stream_window_bytes, limits.streams_max, limits.handshake_timeout_s) == (12_345, 67, 8.9)


def children_of(pid):
    """Processes whose parent is `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after_name[1]) == pid:
            found.append(int(path.parent.name))
    return found


def test_ctrl_c_ends_a_devnet_and_all_its_processes_without_a_word():
    command = [sys.executable, "-m", "quiver.live", "devnet", "--http-port", "0", "--providers", "1"]
    devnet = subprocess.Popen(
        command,
        env=make_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "Ctrl-C" not in (line := devnet.stdout.readline()):
        assert line, devnet.stderr.read()
    nodes = children_of(devnet.pid)
    assert len(nodes) == 5
    devnet.send_signal(signal.SIGINT)
    _, error = devnet.communicate(timeout=15)
    assert (devnet.returncode, error) == (0, "")
    assert not [pid for pid in nodes if Path(f"/proc/{pid}").exists()]
