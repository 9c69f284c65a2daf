"""What has to be the same in every process, whatever the seed of its hashes: a scenario's hash, a substream's draws."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sim.rng import Substreams

ROOT = Path(__file__).parents[2]
PROGRAM = "from sim.rng import Substreams as S; print(S(7).stream('node', 3, b'x').random(), S(7).uniform('u'))"
HASHES = """
from sim import Scenario
from sim.rules import Partition
from sim.churn import spot
tour = Scenario.named("tour").replace(topology="synthetic", workload="mooncake-synthetic")
print(tour.hash(), tour.replace(links=Partition({1: "a"}), churn=spot(), params=tour.params).hash())
"""


def test_the_hash_is_the_same_in_every_process():
    def ask(seed):
        done = subprocess.run(
            [sys.executable, "-c", HASHES], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return done.stdout

    assert ask("1") == ask("2")
    plain, plugged = ask("3").split()
    assert plain != plugged


def test_a_substream_is_the_same_in_another_process_with_another_hash_seed():
    seen = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert seen == {f"{Substreams(7).stream('node', 3, b'x').random()} {Substreams(7).uniform('u')}\n"}
