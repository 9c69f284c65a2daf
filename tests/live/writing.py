"""A process that writes to a store until it is killed, and what must be there afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from quiver.ports import Store

ROOT = Path(__file__).parents[2]


def start_writer(place: object, first: int) -> subprocess.Popen[str]:
    """`store_writer` on a file or URL; what it acknowledges is on its standard output."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.live.store_writer", str(place), str(first)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True,
    )  # fmt: skip


def read_rest(writer: subprocess.Popen[str]) -> list[int]:
    """What was in the pipe when it died was durable as well; its last line may be cut."""
    return [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]


def write_until_killed(place: object, *, first: int, acknowledged: int) -> list[int]:
    """Numbers the writer said were durable, before it was killed with SIGKILL."""
    with start_writer(place, first) as writer:
        said = [int(writer.stdout.readline()) for _ in range(acknowledged)]
        os.kill(writer.pid, signal.SIGKILL)
        said += read_rest(writer)
    assert writer.returncode == -signal.SIGKILL
    return said


def check_written(open_store: Callable[[], Store], said: list[int], firsts: Iterable[int] = (0, 1_000_000)) -> None:
    """Everything acknowledged is there, batches are whole, nothing durable comes after something lost, and the store lives."""

    async def look() -> tuple[list[int], list[int]]:
        store = open_store()
        left = [int.from_bytes(key, "big") for key, _ in store.scan("left")]
        right = [int.from_bytes(key, "big") for key, _ in store.scan("right")]
        await store.commit([("left", b"alive", b"1")])
        await store.close()
        return left, right

    left, right = asyncio.run(look())
    assert left == right
    assert sorted(set(said) - set(left)) == []
    for first in firsts:
        numbers = [number for number in left if first <= number < first + 1_000_000]
        assert numbers == list(range(first, first + len(numbers))) != []
