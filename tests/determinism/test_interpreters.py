"""Same seed, same digest: over processes, hash seeds and every CPython of this machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from sim import data
from tests.determinism.command import Command, check_same_digest
from tests.determinism.interpreters import ROOT, find_others
from tests.determinism.stories import STORIES, nursery_ends_when_its_last_child_has_just_ended, tell

# azure-planetlab with a fifth of its providers, gateways and arrivals: the shape of the demo in a few seconds.
RUNS = {
    "tour": ("tour",),
    "azure-planetlab": (
        "azure-planetlab", "--set", "duration_s=60", "--set", "providers=200", "--set", "gateways=4",
        "--set", "arrivals=2", "--set", "fallback=true",
    ),
    "azure-planetlab, whole": ("azure-planetlab", "--set", "duration_s=60", "--set", "fallback=true"),
    "tour, encoded, signed, churning": (
        "tour", "--set", "frames=encoded", "--set", "signatures=real", "--set", "chunks=token", "--set", "churn=30",
    ),
}  # fmt: skip
# A thousand providers take a quarter of a minute for each interpreter.
LONG = {"azure-planetlab, whole"}
TRACES = ("azure-conv", "planetlab")
# A story that hangs would hang forever; all of them take a second, imports included.
STORIES_TIMEOUT_S = 60
QUICK = ("--set", "duration_s=5", "--set", "providers=5")


def make_commands(pythons, arguments):
    """The same run for each interpreter, each with a hash seed of its own."""
    return [
        Command(python=python, hash_seed=number, arguments=("run", *arguments, "--seed", "1", "--json"))
        for number, python in enumerate(pythons, start=1)
    ]


@pytest.fixture(scope="module")
def others():
    """Pythons of the environments of the other interpreters."""
    found = find_others()
    absent = [interpreter.version for interpreter in found if not interpreter.is_installed]
    if absent and os.environ.get("CI") == "true":
        pytest.fail(f"Python {', '.join(absent)} is on PATH and has no environment: run `make interpreters`")
    return [interpreter.virtual_python for interpreter in found if interpreter.is_installed]


def require(others):
    if not others:
        names = ", ".join(interpreter.version for interpreter in find_others())
        pytest.skip(
            f"CPython {names} is on PATH, but has no environment: run `make interpreters`" if names
            else f"no other CPython from 3.11 on is on PATH, only {platform.python_version()}"
        )  # fmt: skip


def release(python):
    """Like 3.12.1."""
    question = "import platform; print(platform.python_version())"
    return subprocess.run([ROOT / python, "-c", question], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in RUNS])
def test_every_interpreter_and_hash_seed_gives_the_same_digest(name, others, say, tmp_path):
    pythons = [sys.executable, sys.executable, *others]
    summaries = check_same_digest(make_commands(pythons, RUNS[name]), tmp_path)
    present = all((data.folder() / data.describe(trace).path).is_file() for trace in TRACES)
    labels = {summary["data"] for summary in summaries}
    assert labels == {"real" if present else "synthetic"}
    assert summaries[0]["completed"] > 30
    say(f"{name}, {labels.pop()} data: CPython {', '.join(map(release, pythons))} agree on {summaries[0]['digest']}")
    for interpreter in find_others():
        if not interpreter.is_installed:
            say(f"{name}: not compared with {interpreter.executable}, run `make interpreters`")


def test_there_is_another_interpreter(others):
    require(others)
    assert not set(map(release, others)) & {platform.python_version()}


def test_every_interpreter_tells_the_same_stories(others):
    require(others)
    for python in others:
        question = [ROOT / python, "-m", "tests.determinism.stories"]
        told = subprocess.run(question, cwd=ROOT, capture_output=True, text=True, timeout=STORIES_TIMEOUT_S)
        assert told.returncode == 0, f"{python}: {told.stderr}"
        for story in STORIES:
            heard = [tuple(line) for line in json.loads(told.stdout)[story.__name__]]
            assert heard == tell(story), f"{story.__name__} under {python}"


def test_a_nursery_whose_last_child_has_just_ended_goes_on():
    """Where `gather` does not pause (3.12 and later), waiting for such a child must not become a spin."""
    told = tell(nursery_ends_when_its_last_child_has_just_ended)
    assert told == [(1.0, "child"), (1.0, "body"), (1.0, "bystander"), (1.0, "after")]


def test_a_planted_set_order_is_found_over_hash_seeds_and_each_replay_line_replays(tmp_path):
    plant = (*QUICK, "--set", "policy=tests/determinism/planted.py:SetOrder")
    commands = make_commands([sys.executable] * 2, ("tour", *plant))
    with pytest.raises(AssertionError) as failure:
        check_same_digest(commands, tmp_path)
    _, *replays, row = str(failure.value).splitlines()
    assert row.startswith("event ") and "RequestDispatched" in row
    assert [replay.split("  ")[1] for replay in replays] == [str(command) for command in commands]
    for digest, replay in (line.split("  ") for line in replays):
        done = subprocess.run(replay, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["digest"] == digest


def test_a_planted_float_sum_is_found_over_interpreters(others, tmp_path):
    require(others)
    sides = {tuple(map(int, release(python).split(".")[:2])) >= (3, 12): python for python in [sys.executable, *others]}
    if len(sides) < 2:
        pytest.skip("all interpreters here add floats alike: it takes one before and one after 3.12")
    plant = (*QUICK, "--set", "policy=tests/determinism/planted.py:FloatSum")
    with pytest.raises(AssertionError, match="RequestDispatched"):
        check_same_digest(make_commands([sides[False], sides[True]], ("tour", *plant)), tmp_path)
