"""A real node, anvil from its npm package, as a child process; and plain JSON-RPC to it (`make evm` installs it)."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import subprocess
import threading
import time
import urllib.request
from types import TracebackType
from typing import Any

import pytest

from tests.evm.compiled import HOUSE

MODULES = HOUSE / "tests" / "evm" / "js" / "node_modules"
_MACHINE = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "AMD64": "amd64"}.get(platform.machine(), "amd64")
# The package's own command is a wrapper in JavaScript; the program itself is in the package of this machine.
BINARY = MODULES / "@foundry-rs" / f"anvil-{platform.system().lower()}-{_MACHINE}" / "bin" / "anvil"
VERSION = "1.7.1"
ANSWER_TIMEOUT_S = 30.0
POLL_S = 0.01


def need_node() -> None:
    """Skip the test that calls this, with the reason, where the node is missing; under CI=true that fails."""
    if not BINARY.exists():
        message = "no anvil: run `make evm`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


class RpcFailed(Exception):
    """The node answered with an error; `data` is what a revert says."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("message", ""))
        self.data = error.get("data")


class Node:
    """Anvil on a free port of loopback, for a `with` statement. `options` are its own, as `--no-mining`."""

    def __init__(self, *options: str, port: int = 0) -> None:
        self._options = options
        self._port = port
        self._ids = itertools.count()

    def __enter__(self) -> Node:
        self.process = subprocess.Popen(
            [str(BINARY), "--host", "127.0.0.1", "--port", str(self._port), *self._options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"Listening on 127\.0\.0\.1:(\d+)", line):
                self._port = int(found[1])
                self.url = f"http://127.0.0.1:{self._port}"
                # It writes a line a question, and stops answering once the pipe is full.
                self._reader = threading.Thread(target=self._read_on, name="anvil", daemon=True)
                self._reader.start()
                return self
        raise RuntimeError(f"anvil ended with {self.process.wait()} before it listened")

    def _read_on(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def rpc(self, method: str, *parameters: object) -> Any:
        """The result, or `RpcFailed`."""
        body = json.dumps({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": parameters})
        request = urllib.request.Request(self.url, body.encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
            told = json.loads(answer.read())
        if "error" in told:
            raise RpcFailed(told["error"])
        return told["result"]

    def send(self, sender: str, to: str | None, data: bytes, value: int = 0) -> dict[str, Any]:
        """Receipt of a transaction in a block of its own; AssertionError if it reverted."""
        self.rpc("anvil_impersonateAccount", sender)
        transaction = {"from": sender, "data": "0x" + data.hex(), "value": hex(value), "gas": hex(15_000_000)}
        made = self.rpc("eth_sendTransaction", {**transaction, **({"to": to} if to else {})})
        while (receipt := self.rpc("eth_getTransactionReceipt", made)) is None:
            time.sleep(POLL_S)
        assert receipt["status"] == "0x1", f"reverted: {receipt['transactionHash']}"
        return dict(receipt)
