"""What tells two versions of a plug apart: its source, everything that source uses, and the state of an object.

Rules of this file: same content, same text, in any process; what belongs to `quiver`, `sim`, the standard library or an
installed package is named only, since the code's own checksum or version covers it. Where a value can't be described, it
is refused: a stored run must never be taken for another.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from quiver.errors import UsageError
from quiver.selection import plugin
from sim.source import find_names, find_namespace, is_installed, read_source

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def describe_plug(plug: Any) -> str:
    """The fingerprint as text: long, but stable."""
    if isinstance(plug, str) and ":" in plug:
        place = plug.rpartition(":")[0]
        found = describe_plug(plugin.find(plug))
        # A file is taken whole: what it computes at import matters as much as the class.
        return Path(place).read_text(encoding="utf-8") + found if place.endswith(".py") else found
    return _Description().describe(plug)


class _Description:
    """Walks values; each definition is written out once, an object met again is a reference."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []

    def describe(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, ModuleType):
            return _describe_module(value)
        if is_installed(value) or (isinstance(value, type) and value.__module__ == "builtins"):
            return f"{value.__module__}.{getattr(value, '__qualname__', value)}"
        if id(value) in self._numbers:
            return f"#{self._numbers[id(value)]}"
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)  # an id is only good while its object lives
        if isinstance(value, (type, FunctionType)):
            return self._definition(value)
        return self._state(value)

    def _definition(self, value: type | FunctionType) -> str:
        space = find_namespace(value)
        try:
            if value.__name__ == "<lambda>":
                raise OSError("several lambdas of one line share its text")
            text = read_source(value)
            names, annotations = find_names(text)
        except (OSError, TypeError, SyntaxError):
            text, names, annotations = *_read_bytecode(value), frozenset()
        used = [name for name in names if name not in annotations]
        parts = [text]
        parts += [f"{other} = {self.describe(space[other])}" for other in used if other in space]
        if isinstance(value, FunctionType):
            parts.append(self.describe((value.__defaults__, value.__kwdefaults__)))
        else:
            parts += [self.describe(base) for base in value.__bases__]
        return "\n".join(parts)

    def _state(self, value: Any) -> str:
        kind = self.describe(type(value))
        if isinstance(value, Mapping):
            return f"{kind}{{{', '.join(f'{self.describe(k)}: {self.describe(v)}' for k, v in value.items())}}}"
        if isinstance(value, (set, frozenset)):
            return f"{kind}{{{', '.join(sorted(map(repr, value)))}}}"
        if isinstance(value, (tuple, list)):
            return f"{kind}[{', '.join(map(self.describe, value))}]"
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            return f"{kind} {array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
        if isinstance(value, (pd.DataFrame, pd.Series)):
            hashed = pd.util.hash_pandas_object(value).to_numpy().tobytes()
            return f"{kind} {hashlib.sha256(hashed).hexdigest()}"
        if isinstance(value, MethodType):
            return f"{value.__func__.__qualname__} of {self.describe(value.__self__)}"
        if _pickles_itself(type(value)):
            # It says itself what it is made of, for pickle.
            try:
                reduced = value.__reduce_ex__(4)
            except TypeError:
                raise _refusal(value) from None
            parts = reduced if isinstance(reduced, tuple) else (reduced,)
            return f"{kind} {[self.describe(list(p) if isinstance(p, Iterator) else p) for p in parts]}"
        names = _fields(value)
        if names is None:
            raise _refusal(value)
        return f"{kind}({', '.join(f'{name}={self.describe(getattr(value, name))}' for name in names)})"


def _refusal(value: Any) -> UsageError:
    return UsageError(
        f"a {type(value).__name__} inside a plug can't be told from another one, so results could be mixed up: "
        "make it in the plug's __init__ or method instead"
    )


def _pickles_itself(kind: Any) -> bool:
    """Its class says what its objects are made of; what `object` says is the attributes, which `_fields` names in order."""
    return kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__


def _describe_module(module: ModuleType) -> str:
    """Its name; its text too where no version covers it, because it is the researcher's own."""
    path = Path(getattr(module, "__file__", None) or "")
    top = module.__name__.partition(".")[0]
    if top in ("quiver", "sim", *sys.stdlib_module_names) or "site-packages" in path.parts or path.suffix != ".py":
        return f"module {module.__name__}"
    return f"module {module.__name__} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _read_bytecode(value: type | FunctionType) -> tuple[str, list[str]]:
    """Of what was typed into a prompt that keeps no source, or of a lambda: (text, names it may use)."""
    functions = (
        [value] if isinstance(value, FunctionType) else [f for f in vars(value).values() if inspect.isfunction(f)]
    )
    if not functions:
        raise UsageError(f"the source of {value.__name__} is kept nowhere: define it in a cell or a file")
    codes = [code for function in functions for code in _walk_code(function.__code__)]
    texts = [
        f"{code.co_code.hex()} {code.co_names} {[c for c in code.co_consts if not isinstance(c, CodeType)]}"
        for code in codes
    ]
    return "\n".join(texts), [name for code in codes for name in (*code.co_names, *code.co_freevars)]


def _walk_code(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _walk_code(constant)


def _fields(value: Any) -> list[str] | None:
    """Names of the attributes that make up an object's state; None if it hides them."""
    if isinstance(value, msgspec.Struct):
        return list(value.__struct_fields__)
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(value, name)]
    if hasattr(value, "__dict__"):
        return [*names, *vars(value)]
    return names or None
