"""The durable start counter: a restarted provider is never confused with its past."""

from __future__ import annotations

from quiver.ports import Store

TABLE, KEY = "provider_node", b"generation"


def next_generation(store: Store) -> tuple[int, tuple[str, bytes, bytes]]:
    """A number larger than that of every earlier start, and the put that makes it durable."""
    old = store.get(TABLE, KEY)
    generation = 1 + (int.from_bytes(old, "big") if old else 0)
    return generation, (TABLE, KEY, generation.to_bytes(8, "big"))
