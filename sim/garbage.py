"""Python's cyclic collector during a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects of generation 0 before a collection, and collections of each generation before one of the next. A world is full
# of long-lived objects that are no garbage; what a request leaves is freed by counting, so cycles are rare.
THRESHOLDS = (200_000, 50, 100)


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Nothing that exists now is walked again, and the collector seldom runs. As before at the end."""
    gc.collect()
    gc.freeze()
    old = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        # Frozen and thawed, what the run has made counts as old: else the next object made would have all of it walked.
        gc.freeze()
        gc.set_threshold(*old)
        gc.unfreeze()
