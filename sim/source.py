"""The source text of a plugged-in class, wherever it was typed: a file, a notebook cell, another process.

`inspect.getsource` knows no classes of notebook cells; their methods know the cell, and `linecache` its text.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

_REMEMBERED: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def remember(plug: Any, text: str) -> None:
    """Note the source of a class that came from another process, where no cell holds its text."""
    _REMEMBERED[plug] = text


def read_source(plug: Any) -> str:
    """The text of a class or function, without indentation; `OSError` when it was typed where nobody keeps it."""
    if plug in _REMEMBERED:
        return _REMEMBERED[plug]
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


def describe_source(plug: Any) -> str:
    """What tells two versions of a plug apart: its source, else its bytecode, else its name."""
    if isinstance(plug, str):
        path = plug.rpartition(":")[0]
        if path.endswith(".py"):
            with open(path, encoding="utf-8") as file:
                return file.read()
        return plug
    try:
        return read_source(plug)
    except (OSError, TypeError):
        # Typed into a prompt that keeps no source.
        functions = (
            [value for value in vars(plug).values() if isinstance(value, FunctionType)] if inspect.isclass(plug) else []
        )
        codes = [function.__code__ for function in functions] or [getattr(plug, "__code__", None)]
        return "\n".join(repr(plug) if code is None else code.co_code.hex() + repr(code.co_consts) for code in codes)
