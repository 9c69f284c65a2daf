"""A notebook cell's policy as a file that a live gateway can load: `policy = "my_policy.py:Mine"`.

Rules of this file: what the class needs is found by reading its source, never guessed; what cannot be written as text is
refused by name; the file is loaded in a fresh process before anybody relies on it.
"""

from __future__ import annotations

import builtins
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import quiver
from quiver.errors import UsageError
from sim.source import find_names, find_namespace, is_installed, read_source, write_import

# Loading a policy takes well below a second; a module that computes at import is a mistake worth a clear message.
CHECK_S = 60.0
_PLAIN = (bool, int, str, bytes, type(None))
_CHECK = "import sys; from quiver.selection.plugin import load; load(sys.argv[1])"


def export(policy: type, path: str | Path) -> str:
    """Write `policy` with everything it uses, check it in a fresh process, and return the `file.py:Class` to give a gateway.

    Examples
    --------
    >>> from quiver.selection.power_of_two import PowerOfTwo
    >>> export(PowerOfTwo, "two.py")
    'two.py:PowerOfTwo'
    """
    path = Path(path)
    if path.suffix != ".py":
        raise UsageError(f"export to {path}: the file's name must end in .py")
    file = _File()
    file.define(policy.__name__, policy)
    text = file.text(f'"""{policy.__name__}: a routing policy, exported from a notebook or module."""')
    with tempfile.TemporaryDirectory() as directory:
        trial = Path(directory) / path.name
        trial.write_text(text, encoding="utf-8")
        _check(trial, policy.__name__)
    path.write_text(text, encoding="utf-8")
    return f"{path}:{policy.__name__}"


class _File:
    """Collects imports, constants and definitions, each once, a definition after what it uses."""

    def __init__(self) -> None:
        self._imports: dict[str, None] = {}
        self._body: list[str] = []
        self._done: dict[str, Any] = {}

    def text(self, docstring: str) -> str:
        """The whole file."""
        imports = "\n".join(sorted(self._imports))
        head = "\n\n".join(part for part in (docstring, "from __future__ import annotations", imports) if part)
        return head + "\n\n\n" + "\n\n\n".join(part.strip("\n") for part in self._body) + "\n"

    def add(self, name: str, value: Any) -> None:
        """Make `name` mean `value` in the file."""
        if name in self._done:
            if self._done[name] is not value:
                raise UsageError(f"export: {name} means two things in what the policy uses; rename one of them")
            return
        self._done[name] = value
        if isinstance(value, ModuleType):
            self._imports[f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}")] = None
        elif isinstance(value, (type, FunctionType)) and not is_installed(value):
            self.define(name, value)
        elif (line := write_import(name, value)) is not None:
            self._imports[line] = None
        else:
            self._body.append(f"{name} = {_literal(name, value)}")

    def define(self, name: str, value: Any) -> None:
        """Write a class or function out, after what it uses."""
        self._done[name] = value
        try:
            source = read_source(value)
        except (OSError, TypeError) as error:
            raise UsageError(
                f"export: the source of {name} is not kept anywhere ({error}); define it in a cell or a file"
            ) from error
        space = find_namespace(value)
        needed, annotations = find_names(source)
        for other in needed:
            if other in space and other != name:
                self.add(other, space[other])
            elif other not in space and other not in annotations and not hasattr(builtins, other) and other != name:
                raise UsageError(
                    f"export: {name} uses {other}, which is not defined; run the cell that defines it first"
                )
        self._body.append(source)


def _literal(name: str, value: Any) -> str:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (tuple, list)):
        inner = "".join(f"{_literal(name, item)}, " for item in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(name, key)}: {_literal(name, item)}" for key, item in value.items()) + "}"
    raise UsageError(
        f"export: the policy uses {name}, a {type(value).__name__}, which cannot be written to a file; make it in __init__"
    )


def _check(path: Path, name: str) -> None:
    """As a gateway would at its start, where nothing of this process is known."""
    root = str(Path(quiver.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHECK, f"{path}:{name}"], cwd=path.parent, env=environment, capture_output=True, text=True,
            timeout=CHECK_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"export: {name} did not load within {CHECK_S:g} s; compute in choose(), not at import"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"export: {name} does not work in a fresh process: {reason}")
