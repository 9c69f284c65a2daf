"""The three lists of packages (environment.yml, pyproject.toml, constraints.txt) agree with each other and with .venv."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER_PACKAGES = {
    "simpy", "networkx", "numpy", "pandas", "matplotlib", "aioquic", "pynacl", "jupyterlab", "pytest-benchmark",
}  # fmt: skip

ROOMS = ("quiver", "sim", "experiments", "tests")
OWN_LISTS = {"atheris", "vyper"}  # installed by make fuzz and make evm, each from a list of its own


def canonical(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(requirement: str) -> tuple[str, str]:
    """'PyNaCl[extra]>=1.5,<2; marker' -> ('pynacl', '>=1.5,<2')."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+?)(?:\[[^]]*\])?\s*((?:[<>=!~]=?[^;]*)?)(?:;.*)?", requirement.strip())
    assert match is not None, f"not a requirement: {requirement!r}"
    return canonical(match[1]), match[2].replace(" ", "")


def declared() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return dict(parse(requirement) for group in groups for requirement in group)


def conda() -> dict[str, str]:
    lines = re.findall(r"^      - ([A-Za-z].*)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    return dict(parse(line) for line in lines)


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    return {canonical(line.split("==")[0]): line.split("==")[1] for line in lines}


def test_environment_yml_is_the_users_list_with_the_ranges_of_pyproject():
    assert set(conda()) == USER_PACKAGES
    assert {name: declared()[name] for name in USER_PACKAGES} == conda()


@pytest.mark.parametrize("name", sorted(declared()))
def test_a_declared_package_is_installed_at_the_pinned_version(name: str):
    try:
        installed = version(name)
    except PackageNotFoundError:
        pytest.fail(f"{name} is declared in pyproject.toml but not installed: run `make setup`")
    assert pinned()[name] == installed


def foreign(path: Path) -> bool:
    """Files that run in an environment of their own, which the Makefile makes from a list beside them."""
    return path.is_relative_to(ROOT / "tests/interop/py") or "node_modules" in path.parts


def imports(source: str) -> set[str]:
    """First names of what a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


# Parsing 800 files takes seconds: only one with a line that looks like an import of something unknown is parsed.
LIKE_AN_IMPORT = re.compile(r"(?:^|;|:)\s*(?:from\s+(\w+)|import\s+(.+))", re.MULTILINE)


def like_imports(source: str) -> set[str]:
    """At least `imports`: also from lines of texts."""
    found: set[str] = set()
    for match in LIKE_AN_IMPORT.finditer(source):
        found.update([match[1]] if match[1] else re.findall(r"(?:^|,)\s*(\w+)", match[2]))
    return found


def test_every_import_is_declared():
    """A package that is only installed by chance is missing in a fresh clone."""
    wanted = declared().keys()
    ours = {name for name, found in packages_distributions().items() if {*map(canonical, found)} & wanted}
    known = {*sys.stdlib_module_names, *ROOMS, *OWN_LISTS, *ours}
    undeclared: dict[str, str] = {}
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if not foreign(path)):
        source = path.read_text()
        if like_imports(source) - known:
            undeclared |= {name: str(path.relative_to(ROOT)) for name in imports(source) - known}
    assert undeclared == {}


@pytest.mark.parametrize(
    "source",
    ["import a", "import a.b as c", "import a, b", "from a import b", "if x:\n    import a", "if x: import a", "y = 1; import a, b"],
)  # fmt: skip
def test_whatever_is_an_import_looks_like_one(source: str):
    assert imports(source) and imports(source) <= like_imports(source)
