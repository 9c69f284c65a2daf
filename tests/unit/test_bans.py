"""The bans of pyproject.toml do fire: each banned API, in each way to write it, and each import contract.

A linter that is told nothing says "all checks passed", so each rule is shown one offence it must name.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RUFF = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
BANNED = sorted(RUFF["flake8-tidy-imports"]["banned-api"])
ALLOWED = [glob for glob, rules in RUFF["per-file-ignores"].items() if "TID251" in rules]
# Protocol code may only be exempt where it meets the real world, and where the replacements are defined.
ALLOWED_IN_QUIVER = {"quiver/live/**", "quiver/runtime.py"}
MODULES = {name for name in BANNED if "." not in name}


def spellings(name: str) -> dict[str, str]:
    """Ways to reach a banned name, each clean but for the ban."""
    module, _, member = name.partition(".")
    if name in MODULES:
        return {
            "import": f"import {name}\n\nvalue = {name}\n",
            "import as": f"import {name} as other\n\nvalue = other\n",
            "from": f"from {name} import something\n\nvalue = something\n",
        }
    first, *rest = member.split(".")
    return {
        "import": f"import {module}\n\nvalue = {name}\n",
        "import as": f"import {module} as other\n\nvalue = other.{member}\n",
        "from": f"from {module} import {first}\n\nvalue = {member}\n",
        "from as": f"from {module} import {first} as other\n\nvalue = {'.'.join(['other', *rest])}\n",
    }


def lint(folder: Path, files: dict[str, str]) -> dict[str, set[str]]:
    """Codes ruff finds in each file, under a copy of the project's configuration."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, source in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source)
    done = subprocess.run(
        [BIN / "ruff", "check", "--no-cache", "--output-format", "json", "."],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, set[str]] = {path: set() for path in files}
    for finding in json.loads(done.stdout):
        found[Path(finding["filename"]).relative_to(folder).as_posix()].add(finding["code"])
    return found


@pytest.mark.parametrize("room", ["quiver/gateway", "sim"])
def test_each_banned_api_is_found_however_it_is_written(room, tmp_path):
    files = {
        f"{room}/{name.replace('.', '_')}_{way.replace(' ', '_')}.py": source
        for name in BANNED
        for way, source in spellings(name).items()
    }
    assert len(files) > 4 * len(BANNED) - 2 * len(MODULES)
    found = lint(tmp_path.resolve(), files)
    assert {path: codes for path, codes in found.items() if codes != {"TID251"}} == {}


def test_the_bans_the_design_asks_for_are_there():
    asked = "TaskGroup wait_for timeout wait as_completed to_thread run_in_executor sleep".split()
    assert {f"asyncio.{name}" for name in asked} | {"time", "socket", "ssl", "threading", "os.urandom"} <= set(BANNED)


def test_every_draw_from_the_global_generator_is_banned():
    draws = {
        f"random.{name}"
        for name, value in vars(random).items()
        if getattr(value, "__self__", None) is random._inst and name not in {"getstate", "setstate"}
    }
    assert len(draws) > 15
    assert draws | {"random.SystemRandom"} <= set(BANNED)


def test_what_protocol_code_may_use_is_not_banned(tmp_path):
    allowed = ("asyncio.Future", "asyncio.Queue", "asyncio.Event", "asyncio.Lock", "asyncio.gather", "random.Random")
    files = {f"quiver/{name.replace('.', '_')}.py": spellings(name)["import"] for name in allowed}
    assert lint(tmp_path.resolve(), files) == {path: set() for path in files}


def test_the_exempt_places_are_exempt_and_their_neighbours_are_not(tmp_path):
    source = "import time\n\nvalue = time\n"
    inside = {str(example(glob)): source for glob in ALLOWED}
    outside = {
        f"{room}/planted.py": source for room in ("quiver", "quiver/quic", "quiver/values", "sim", "sim/packets")
    }
    found = lint(tmp_path.resolve(), inside | outside)
    assert {path for path, codes in found.items() if codes} == set(outside)
    assert all(found[path] == {"TID251"} for path in outside)


def example(glob: str) -> Path:
    """A file of the project an exemption is for; one that matches nothing is a leftover."""
    star, brace = glob.partition("**")[0], glob.partition("{")
    if brace[1]:
        names, _, end = brace[2].partition("}")
        matches = [path for name in names.split(",") if (path := ROOT / f"{brace[0]}{name}{end}").is_file()]
        assert len(matches) == len(names.split(",")), f"{glob} names files that do not exist"
    elif star != glob:
        matches = [path for kind in ("py", "ipynb") for path in sorted((ROOT / star).rglob(f"*.{kind}"))]
    else:
        matches = [path for path in [ROOT / glob] if path.is_file()]
    assert matches, f"{glob} exempts nothing"
    return matches[0].relative_to(ROOT).with_suffix(".py")


def test_protocol_code_is_exempt_in_two_places_only():
    assert {glob for glob in ALLOWED if glob.startswith("quiver")} == ALLOWED_IN_QUIVER


@pytest.mark.parametrize("attribute", ["run_in_executor", "call_soon_threadsafe"])
def test_no_thread_is_reached_through_a_loop_object(attribute):
    """Ruff does not know what a variable holds, so `loop.run_in_executor(...)` passes it."""
    users = [
        path.relative_to(ROOT).as_posix()
        for room in ("quiver", "sim")
        for path in sorted((ROOT / room).rglob("*.py"))
        if attribute in (text := path.read_text())
        and any(isinstance(node, ast.Attribute) and node.attr == attribute for node in ast.walk(ast.parse(text)))
    ]
    assert [path for path in users if not path.startswith("quiver/live/")] == []


PLANTS = {
    "notebooks -> experiments": ("sim/planted.py", "import experiments"),
    "The house": ("quiver/gateway/planted.py", "import quiver.provider.service"),
    "The house: roles sit above rooms": ("quiver/dht/planted.py", "import quiver.gateway.service"),
    "The house: every room has its place": ("quiver/attic/__init__.py", ""),
    "The simulation and the live node never meet": ("sim/planted.py", "import quiver.live.config"),
    "aioquic": ("sim/planted.py", "import aioquic"),
    "quiver knows nothing of SimPy": ("quiver/wire/planted.py", "import numpy"),
    "HTTP, telemetry": ("sim/planted.py", "import aiohttp"),
}
"""Begin of a contract's name (what is behind it is ours) -> the file that breaks it, and its line."""


def contract_of(name: str) -> str:
    """The whole name of the contract in pyproject.toml."""
    found = [c["name"] for c in CONTRACTS if c["name"].startswith(name.partition(": ")[0])]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The packages as they are, and a cache for the linter."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("quiver", "sim", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def broken_contracts(folder: Path) -> tuple[set[str], str]:
    """Names of the contracts that do not hold, and all that import-linter says."""
    done = subprocess.run(
        [BIN / "lint-imports", "--no-logo", "--cache-dir", folder / "cache"], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"COLUMNS": "400", "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    names = [contract["name"] for contract in CONTRACTS]
    assert all(f"{name} KEPT" in done.stdout or f"{name} BROKEN" in done.stdout for name in names), done.stdout
    return {name for name in names if f"{name} BROKEN" in done.stdout}, done.stdout


@pytest.mark.parametrize("name", PLANTS)
def test_each_import_contract_names_the_import_that_breaks_it(name, copy):
    path, line = PLANTS[name]
    planted = copy / path
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"{line}\n")
    try:
        broken, said = broken_contracts(copy)
    finally:
        planted.unlink()
    assert broken == {contract_of(name)}
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert (f"{module} -> {line.removeprefix('import ')}" if line else module.rpartition(".")[2]) in said


def test_every_import_contract_has_a_plant_and_holds_without_one(copy):
    assert {contract_of(name) for name in PLANTS} == {contract["name"] for contract in CONTRACTS}
    assert broken_contracts(copy)[0] == set()
