"""The source text of a plugged-in class, wherever it was typed, and the names that it takes from outside.

`inspect.getsource` knows no classes of notebook cells; their methods know the cell, and `linecache` its text.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import linecache
import sys
import textwrap
from pathlib import Path
from types import FunctionType
from typing import Any


def read_source(plug: Any) -> str:
    """The text of a class or function, without indentation; `OSError` when it was typed where nobody keeps it."""
    if not inspect.isclass(plug):
        return textwrap.dedent(inspect.getsource(plug))
    # The code of a method names its cell or file; a class without methods can only come from a file.
    for method in vars(plug).values():
        if isinstance(method, FunctionType):
            lines = linecache.getlines(method.__code__.co_filename, method.__globals__)
            found = _find_class("".join(lines), plug.__name__, method.__code__.co_firstlineno)
            if found is not None:
                return found
    return textwrap.dedent(inspect.getsource(plug))


def _find_class(text: str, name: str, line: int) -> str | None:
    """The class of that name whose body holds that line."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a cell with %magic lines
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name and node.lineno <= line <= (node.end_lineno or 0):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return textwrap.dedent("".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno])) + "\n"
    return None


def is_installed(value: Any) -> bool:
    """Lives where every installation has it: here, in the standard library or in a package; not in a notebook or script."""
    module = getattr(value, "__module__", None)
    if not isinstance(module, str):
        return False
    top = module.partition(".")[0]
    if top not in ("quiver", "sim") and top not in sys.stdlib_module_names:
        file = getattr(sys.modules.get(top), "__file__", None) or ""
        if "site-packages" not in Path(file).parts:
            return False
    return write_import("x", value) is not None


def write_import(name: str, value: Any) -> str | None:
    module, called = getattr(value, "__module__", None), getattr(value, "__name__", getattr(value, "_name", None))
    if not isinstance(module, str) or not isinstance(called, str) or module == "__main__":
        return None
    try:
        if getattr(importlib.import_module(module), called) is not value:
            return None
    except (ImportError, AttributeError):
        return None
    return f"from {module} import {called}" + ("" if called == name else f" as {name}")


def find_namespace(value: Any) -> dict[str, Any]:
    """What the names of a definition mean: the globals of its functions, and what they close over."""
    functions = (
        [value] if isinstance(value, FunctionType) else [f for f in vars(value).values() if isinstance(f, FunctionType)]
    )
    space: dict[str, Any] = {}
    for function in functions:
        space |= function.__globals__
    for function in functions:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                space[name] = cell.cell_contents
    return space or dict(vars(sys.modules[value.__module__]))


def find_names(source: str) -> tuple[list[str], frozenset[str]]:
    """Names that a definition takes from outside, and those of them that only annotations use."""
    tree = ast.parse(source)
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(part, ast.AST)
        for inner in ast.walk(part)
    }
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)) and node.name
    }
    bound |= {(node.asname or node.name).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.alias)}
    used: dict[str, None] = {}
    in_code: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in bound:
            used[node.id] = None
            if id(node) not in annotations:
                in_code.add(node.id)
    return list(used), frozenset(used) - in_code
