"""Python's cyclic collector during a run, and right after it."""

from __future__ import annotations

import gc

from sim.garbage import THRESHOLDS, quiet_collector


def test_a_run_is_not_walked_when_it_ends():
    """20,000 lists, which would be 28 collections outside; none while the run lasts, and none over them right after it."""
    kept, collections, before = [], [], gc.get_threshold()

    def note(phase, info):
        collections.append(info["generation"])

    with quiet_collector():
        assert gc.get_threshold() == THRESHOLDS
        gc.callbacks.append(note)
        try:
            kept += [[] for _ in range(20_000)]
        except BaseException:
            gc.callbacks.remove(note)
            raise
    try:
        kept += [[] for _ in range(100)]
    finally:
        gc.callbacks.remove(note)
    assert collections == [] and gc.get_threshold() == before and gc.get_freeze_count() == 0
