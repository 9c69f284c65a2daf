"""Aggregators as processes that are killed, and what they leave behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import msgspec

from quiver.aggregator.window import RECEIPTS as RECEIPT_ROWS
from quiver.aggregator.window import KeptReceipt
from quiver.live.devnet import make_environment
from quiver.runtime import Deadline


class Aggregator:
    """The process of `NAME.toml`. It may be killed and started again."""

    def __init__(self, directory, database_url="", name="aggregator"):
        self._directory, self._name = directory, name
        self._environment = {**make_environment(), **({"DATABASE_URL": database_url} if database_url else {})}
        self.start()

    def start(self):
        command = [
            sys.executable,
            "-m",
            "quiver.live",
            "--until-stdin-ends",
            "aggregator",
            "--config",
            f"{self._name}.toml",
        ]
        with open(self._directory / f"{self._name}.log", "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory, env=self._environment, stdin=subprocess.PIPE, stderr=log
            )

    def kill(self):
        """SIGKILL."""
        assert self._process.poll() is None, (self._directory / f"{self._name}.log").read_text()[-2000:]
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def end(self):
        """Whether it runs or was killed."""
        if self._process.poll() is None:
            self.kill()


async def seen(condition, work=()):
    """Return once it is so; what ended one of the tasks in `work` ends this too."""
    async with Deadline(30.0):
        while not condition():
            for task in work:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)


async def read_receipts(make_store):
    """(epoch, channel, seq) -> row, from the store a killed process left behind."""
    store = make_store()
    try:
        decoder = msgspec.msgpack.Decoder(KeptReceipt)
        return {
            (int.from_bytes(key[:8], "big"), key[8:40], int.from_bytes(key[40:], "big")): decoder.decode(row)
            for key, row in store.scan(RECEIPT_ROWS)
        }
    finally:
        await store.close()
