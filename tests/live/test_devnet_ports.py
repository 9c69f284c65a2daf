"""Devnets that start at the same moment, in processes of their own, do not get each other's ports."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from quiver.errors import Unavailable
from quiver.live import devnet_ports
from quiver.live.devnet import make_environment
from quiver.live.devnet_ports import HOST, PORTS, free_ports, release_ports

# Two processes cannot both have so many of so few.
FEW, MOST = PORTS[:30], 20
PROGRAM = f"""
from quiver.errors import Unavailable
from quiver.live import devnet_ports
devnet_ports.PORTS = {FEW!r}
try:
    ports = devnet_ports.free_ports({MOST})
except Unavailable as error:
    print(error, flush=True)
else:
    print(len(set(ports)), "ports", flush=True)
if input() == "release":
    devnet_ports.release_ports(ports)
    print("released", flush=True)
    input()
"""


class Process:
    """One that asks for most of the ports and stays. `directory` is where its locks are, out of the other tests' way."""

    def __init__(self, directory):
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=make_environment() | {"TMPDIR": str(directory)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def says(self):
        return self._process.stdout.readline().strip()

    def release(self):
        self._process.stdin.write("release\n")
        self._process.stdin.flush()
        assert self.says() == "released"

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()


def test_what_one_process_has_no_other_gets_until_it_gives_it_back_or_dies(tmp_path):
    with Process(tmp_path) as one:
        assert one.says() == f"{MOST} ports"
        with Process(tmp_path) as other:
            assert other.says() == f"{HOST} has fewer than {MOST} free ports from {FEW.start} to {FEW.stop - 1}"
        one.release()
        with Process(tmp_path) as other:
            assert other.says() == f"{MOST} ports"
    with Process(tmp_path) as another:
        assert another.says() == f"{MOST} ports"


def test_ports_of_one_process_are_all_different_and_free_for_udp_and_tcp():
    first, second = free_ports(6), free_ports(6)
    try:
        assert len({*first, *second}) == 12
        for port in first:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(socket.AF_INET, kind) as sock:
                    sock.bind((HOST, port))
    finally:
        release_ports([*first, *second])


def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch):
    (taken,) = free_ports(1)
    release_ports([taken])
    monkeypatch.setattr(devnet_ports, "PORTS", range(taken, taken + 1))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, taken))
        with pytest.raises(Unavailable):
            free_ports(1)
    assert free_ports(1) == [taken]
    release_ports([taken])
