"""Every row of a run's trace in a file, so that runs of different processes and Pythons can be compared.

`python -m tests.determinism.recorded FILE run tour --seed 1`: after FILE come the arguments of `python -m sim`. It runs
under every interpreter, so it imports what the plain install has.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sim.__main__ import make_parser
from sim.scenario import Scenario
from sim.trace import Row, RunTrace
from sim.world import World


def record(arguments: Sequence[str]) -> RunTrace:
    """The trace of what `python -m sim` does with these arguments."""
    options = make_parser().parse_args(arguments)
    world = World(Scenario.named(options.name).with_settings(options.set), options.seed, record=True)
    world.run(progress=False)
    return world.trace


def save(trace: RunTrace, path: Path) -> None:
    """All rows as one MessagePack value."""
    path.write_bytes(msgspec.msgpack.encode(trace.recorded))


def load(path: Path) -> RunTrace:
    """What `save` wrote: the rows, without the digest."""
    trace = RunTrace(record=True)
    trace.recorded = msgspec.msgpack.decode(path.read_bytes(), type=list[Row])
    return trace


if __name__ == "__main__":
    save(record(sys.argv[2:]), Path(sys.argv[1]))
