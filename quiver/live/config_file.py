"""A node's TOML files as checked values.

Every key has a default or is required by name; an unknown key is an error that lists the known ones, because a typo that is
ignored costs a day. Paths in a file are relative to that file. Rules of this file: it reads files and nothing else.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from quiver.errors import UsageError

T = TypeVar("T")
# What is out of range is refused when the file is read: a socket would take port 99999 as 34463 without a word.
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything read from a file."""


def load(path: str | Path, kind: type[T]) -> T:
    """The file as a `kind`; `UsageError` names the file, the key and what is allowed."""
    data = read(Path(path))
    tag = getattr(kind, "__struct_config__").tag  # noqa: B009 - the attribute is msgspec's, unknown to type checkers
    if tag is not None and data.get("role") != tag:
        raise UsageError(
            f"{path}: role is {data.get('role')!r}, but a {tag}'s config is needed: give another file or command"
        )
    _check_keys(data, msgspec.inspect.type_info(kind), str(path), "")
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {str(error).replace('$.', '').replace('Object missing', 'missing')}") from error


def read(path: Path) -> dict[str, Any]:
    """The file as it stands; `UsageError` when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check the path, or make it with `init`") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _check_keys(data: Any, info: Any, path: str, where: str) -> None:
    """Walk data and type together; the first unknown key ends it."""
    if isinstance(info, msgspec.inspect.UnionType):
        for option in info.types:
            if isinstance(option, msgspec.inspect.StructType):
                info = option
    if isinstance(info, msgspec.inspect.StructType) and isinstance(data, dict):
        known = {field.encode_name: field.type for field in info.fields}
        for key, value in data.items():
            if key == info.tag_field:
                continue
            if key not in known:
                place = f"[{where}] of " if where else ""
                raise UsageError(
                    f"{path}: unknown key {key!r} in {place}the file; known keys there: {', '.join(known)}"
                )
            _check_keys(value, known[key], path, f"{where}.{key}" if where else key)
    elif isinstance(info, msgspec.inspect.VarTupleType) and isinstance(data, list):
        for item in data:
            _check_keys(item, info.item_type, path, where)


def resolve(config_path: str | Path, text: str) -> Path:
    """A path written in a config file."""
    return Path(config_path).resolve().parent / Path(text).expanduser()
