"""`--set key=value`: texts of a command line as values of a scenario's fields and the protocol's constants."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from quiver.errors import UsageError
from quiver.params import Params

_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})


def read_settings(settings: Iterable[str], fields: Mapping[str, str], params: Params) -> dict[str, Any]:
    """Each value in the type its field is declared with (`fields`: name -> annotation); unknown keys are left as text."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting!r}: write key=value, like providers=50")
        kind = fields.get(key) or type(getattr(params, key, "")).__name__
        changes[key] = read_value(key, text, kind)
    return changes


def read_value(key: str, text: str, kind: str) -> Any:
    """`kind` is an annotation such as `int`, `float | None` or `Plug | bool`; the first part that reads the text wins."""
    parts = kind.replace(" ", "").split("|")
    if not set(parts) & _READERS.keys():
        raise UsageError(f"--set {key}={text}: {key} can't be written as text; set what is in it by name, like k=10")
    # A plug takes any text, so what is simpler is tried first.
    for part in sorted(parts, key=lambda part: part in ("Plug", "str")):
        try:
            return _READERS[part](text)
        except (KeyError, ValueError):
            continue
    wanted = " or ".join(_WORDS[part] for part in parts if part in _WORDS)
    raise UsageError(f"--set {key}={text}: {key} is {wanted}, not {text!r}")


def write_settings(changed: Mapping[str, Any]) -> list[str]:
    """The `--set` texts that make these changes, quoted for a shell; `UsageError` names one that has no text."""
    texts = []
    for key, value in changed.items():
        parts = value if type(value) is tuple else (value,)
        if not all(isinstance(part, (bool, int, float, str, type(None))) for part in parts):
            raise UsageError(f"{key} is given as a {type(value).__name__}, which has no text")
        text = ",".join(map(str, parts))
        texts.append(f"--set {shlex.quote(f'{key}={text}')}")
    return texts


def _read_bool(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


def _read_none(text: str) -> None:
    if text.lower() not in ("none", "null"):
        raise ValueError(text)


_READERS: Mapping[str, Any] = {
    "int": int, "float": float, "bool": _read_bool, "None": _read_none, "str": str, "Plug": str,
    "tuple[Plug,...]": lambda text: tuple(filter(None, text.split(","))),
}  # fmt: skip
_WORDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "None": "none", "str": "a text",
    "Plug": "a name, module:Class or file.py:Class",
}  # fmt: skip
