"""Hypothesis strategies for any msgspec struct, made from its own annotations: a new field is covered when it is written."""

from __future__ import annotations

import functools

from hypothesis import strategies as st
from msgspec import inspect

# What MessagePack can carry.
INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1)
SMALL = 8


@functools.cache
def messages(kind):
    """Values of a struct or of a union of structs, with every field anything its type allows."""
    return _strategy(inspect.type_info(kind))


def _strategy(info):
    if isinstance(info, inspect.UnionType):
        return st.one_of([_strategy(option) for option in info.types])
    if isinstance(info, inspect.StructType):
        return st.builds(info.cls, **{field.name: _strategy(field.type) for field in info.fields})
    if isinstance(info, inspect.VarTupleType):
        return st.lists(_strategy(info.item_type), max_size=3).map(tuple)
    if isinstance(info, inspect.EnumType):
        return st.sampled_from(info.cls)
    plain = {
        inspect.NoneType: st.none(), inspect.BoolType: st.booleans(), inspect.IntType: INTEGERS,
        inspect.FloatType: st.floats(allow_nan=False), inspect.StrType: st.text(max_size=SMALL),
        inspect.BytesType: st.binary(max_size=SMALL),
    }  # fmt: skip
    return plain[type(info)]


@st.composite
def mutations(draw, data):
    """`data` with one to three bytes changed, put in, or taken out, or with its end cut off."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        what = draw(st.sampled_from(["flip", "set", "insert", "delete", "cut"]))
        if what == "insert" or not changed:
            changed[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif what == "flip":
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set":
            changed[at] = draw(st.integers(0, 255))
        elif what == "delete":
            del changed[at]
        else:
            del changed[at:]
    return bytes(changed)
