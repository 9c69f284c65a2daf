"""What is fuzzed also stands its seeds, cut seeds and changed seeds here, without atheris."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys

import pytest

from tests.fuzz.__main__ import NAMES

CHANGES = 300


def changed(seed: bytes, rng: random.Random) -> bytes:
    """`seed` with up to four bytes replaced, put in or taken out, then perhaps cut."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data)


@pytest.mark.filterwarnings("ignore:Parsed a")  # a changed certificate may have a serial number below one
@pytest.mark.parametrize("name", NAMES)
def test_a_target_stands_its_seeds_and_what_is_near_them(name):
    decoder = importlib.import_module(f"tests.fuzz.{name}")
    rng = random.Random(name)
    for seed in (b"", *decoder.SEEDS):
        decoder.one_input(seed)
        for _ in range(CHANGES):
            decoder.one_input(changed(seed, rng))


def test_an_unknown_name_is_answered_with_those_there_are():
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", "kademlia"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'kademlia' is none of certificate, dht_answers, envelope" in done.stderr
