"""The compiler, in a virtual environment of its own, because only tests need it (`make evm`).

`python -m tests.evm.compiled` compiles the contract and writes the artefact that is committed.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]
COMPILER = HOUSE / ".venv-vyper" / "bin" / "vyper"
SOURCE = HOUSE / "quiver" / "live" / "chain" / "contract" / "settlement.vy"
ARTEFACT = SOURCE.with_suffix(".json")


def need_compiler() -> None:
    """Skip the test that calls this, with the reason, where the compiler is missing; under CI=true that fails."""
    if not COMPILER.exists():
        message = "no Vyper compiler: run `make evm`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def compile_source(source: str, name: str = "settlement.vy") -> dict[str, object]:
    """`compiler`, `abi` and `bytecode` of a source text."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(source)
        version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        done = subprocess.run(
            [COMPILER, "-f", "abi,bytecode", name], capture_output=True, text=True, cwd=folder, check=False
        )
    if done.returncode != 0:
        raise ValueError(done.stderr)
    abi, bytecode = done.stdout.strip().splitlines()
    return {"compiler": f"vyper {version}", "abi": json.loads(abi), "bytecode": bytecode}


def render(compiled: dict[str, object]) -> str:
    """As committed: one entry of the interface a line."""
    entries = ",\n".join("    " + json.dumps(entry) for entry in compiled["abi"])
    return (
        f'{{\n  "compiler": {json.dumps(compiled["compiler"])},\n  "abi": [\n{entries}\n  ],\n'
        f'  "bytecode": {json.dumps(compiled["bytecode"])}\n}}\n'
    )


if __name__ == "__main__":
    ARTEFACT.write_text(render(compile_source(SOURCE.read_text())))
