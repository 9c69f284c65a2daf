"""`python -m sim`: what it prints, its exit codes, and what it says about mistakes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

from quiver.params import Params
from sim import Scenario, World, data
from sim.__main__ import main
from sim.pricing import Spread
from sim.rules import Partition

SMALL = ["--set", "providers=3", "--set", "gateways=1", "--set", "duration_s=4", "--set", "arrivals=1"]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_list_names_every_scenario_with_what_it_is(capsys):
    code, out, err = run(capsys, "list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["azure-planetlab", "kademlia-10k", "requests-1m", "tour"]
    code, out, _ = run(capsys, "list", "--json")
    assert json.loads(out) == Scenario.names()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["data", "--help"], ["list", "--help"]])
def test_help_explains_itself(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and "usage: python -m sim" in out
    if arguments[0] == "run":
        assert "examples:" in out and "--set KEY=VALUE" in out
        assert "churn=none" in out and "providers=1000" in out
        assert all(name in out for name in Params.__struct_fields__)


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["run"], ["run", "tour", "--seed", "x"], ["data", "mend"]])
def test_a_wrong_command_shows_its_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m sim" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nosuch"], "no scenario is called 'nosuch'; there are: azure-planetlab, kademlia-10k, requests-1m, tour"),
        (["tour", "--set", "provider=5"], "a scenario has no field 'provider'; did you mean providers"),
        (["tour", "--set", "epoch=5"], "did you mean epoch_ms"),
        (["tour", "--set", "zzz=1"], "a scenario has no field 'zzz'; there are: adversary, arrivals, block_time_s"),
        (["tour", "--set", "providers"], "--set 'providers': write key=value, like providers=50"),
        (["tour", "--set", "=3"], "write key=value"),
        (["tour", "--set", "providers=many"], "--set providers=many: providers is a whole number, not 'many'"),
        (["tour", "--set", "providers=1.5"], "providers is a whole number, not '1.5'"),
        (["tour", "--set", "providers=0"], "providers must be at least 1, not 0"),
        (["tour", "--set", "load=high"], "load is a number or none, not 'high'"),
        (["tour", "--set", "fallback=perhaps"], "fallback is true or false, not 'perhaps'"),
        (["tour", "--set", "k=2.5"], "k is a whole number"),
        (["tour", "--set", "duration_s=nan"], "duration_s must be positive, not nan"),
        (["tour", "--set", "params=x"], "params can't be written as text; set what is in it by name, like k=10"),
        (["tour", "--set", "jitter=maybe"], "no jitter is called 'maybe'; there are: true or false, wander"),
        (["tour", "--set", "churn=often"], "no churn is called 'often'; there are: departures per hour"),
        (["tour", "--set", "policy=best"], "no policy is named 'best': choose one of random"),
        (["tour", "--set", "policy=missing.py:Best"], "file missing.py could not be read"),
        (["tour", "--set", "links=missing.py:Rule"], "file missing.py could not be read"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_to_do(arguments, complaint, capsys):
    code, out, err = run(capsys, "run", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and complaint in err
    assert err.count("\n") == 1


def test_missing_data_says_how_to_get_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path))
    code, out, err = run(capsys, "run", "azure-planetlab")
    assert (code, out) == (2, "")
    for part in (str(tmp_path / "llm"), "QUIVER_DATA", "python -m sim data fetch azure-conv", "--set fallback=true"):
        assert part in err
    code, out, _ = run(capsys, "data", "status")
    assert code == 1 and f"data folder: {tmp_path}" in out and "missing" in out


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("in the way")
    return path


def test_an_out_folder_that_can_not_be_written_is_named_before_anything_runs(file, capsys, monkeypatch):
    monkeypatch.setattr(World, "run", lambda self, **_: pytest.fail("it was run"))
    for place in (file, file / "inside"):
        code, out, err = run(capsys, "run", "tour", "--out", str(place))
        assert (code, out) == (2, "")
        assert f"cannot write into {place} (" in err and "give --out a folder that you may write to" in err
    assert file.read_text() == "in the way"


def test_a_run_leaves_frames_and_a_manifest_that_replays_it(capsys, tmp_path):
    out_folder = tmp_path / "new" / "out"
    code, out, _ = run(capsys, "run", "tour", "--seed", "7", *SMALL, "--json", "--out", str(out_folder))
    summary = json.loads(out.splitlines()[-1])
    assert code == 0 and summary["seed"] == 7
    assert sorted(p.name for p in out_folder.iterdir()) == [
        "epochs.parquet",
        "evidence.parquet",
        "manifest.json",
        "providers.parquet",
        "requests.parquet",
    ]
    assert len(pd.read_parquet(out_folder / "requests.parquet")) == summary["requests"]
    manifest = json.loads((out_folder / "manifest.json").read_text())
    assert manifest["replay"] == (
        "python -m sim run tour --seed 7 --set providers=3 --set gateways=1 --set duration_s=4.0 --set arrivals=1.0"
    )
    code, out, _ = run(capsys, *shlex.split(manifest["replay"])[3:], "--json")
    again = json.loads(out.splitlines()[-1])
    assert (again["digest"], again["scenario_hash"]) == (summary["digest"], summary["scenario_hash"])


def test_kademlia_leaves_a_manifest_too(capsys, tmp_path):
    changes = ["--set", "providers=20", "--set", "topology=synthetic", "--set", "workload=azure-conv-synthetic"]
    code, _, _ = run(capsys, "run", "kademlia-10k", *changes, "--out", str(tmp_path))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert code == 0 and manifest["summary"]["nodes"] == 20 and manifest["scenario"]["topology"] == "synthetic"


def test_a_plug_from_a_file_runs_from_the_command_line(capsys, tmp_path):
    plug = tmp_path / "mine.py"
    plug.write_text(
        "from quiver.provider.pricing import Price\n"
        "class Dear:\n    def price(self, profile, rng):\n        return Price(prompt=900_000, completion=900_000)\n"
        "class Far:\n    def delay_s(self, src, dst, size_bytes, now):\n        return 0.2\n"
    )
    changes = ["--set", f"pricing={plug}:Dear", "--set", f"links={plug}:Far,bandwidth"]
    code, out, _ = run(capsys, "run", "tour", *SMALL, "--json", *changes)
    plain = json.loads(run(capsys, "run", "tour", *SMALL, "--json")[1].splitlines()[-1])
    plugged = json.loads(out.splitlines()[-1])
    assert code == 0 and plugged["credits_paid"] > 5 * plain["credits_paid"] > 0
    assert plugged["ttft_s"]["p50"] > plain["ttft_s"]["p50"] + 0.2


def test_a_run_for_people_names_every_key(capsys):
    code, out, _ = run(capsys, "run", "tour", *SMALL)
    assert code == 0 and "digest" in out and "ttft_s             p50 " in out


def test_a_stopped_run_says_so(capsys, monkeypatch):
    def stop(self, *, progress=True):
        raise KeyboardInterrupt

    monkeypatch.setattr(World, "run", stop)
    assert run(capsys, "run", "tour") == (130, "", "stopped\n")


def test_a_run_that_fails_prints_the_line_that_replays_it(monkeypatch):
    async def fail(self, clock):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(World, "_settle", fail)
    scenario = Scenario.named("tour").replace(providers=3, duration_s=2.0, k=10, links=("bandwidth", "bandwidth"))
    with pytest.raises(ZeroDivisionError) as failed:
        World(scenario, seed=5).run(progress=False)
    assert failed.value.__notes__ == [
        "replay: python -m sim run tour --seed 5 --set providers=3 --set duration_s=2.0 --set links=bandwidth,bandwidth --set k=10"
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"links": Partition({})}, "no command line: links is given as a Partition, which has no text"),
        ({"pricing": Spread()}, "no command line: pricing is given as a Spread"),
        ({"policy": Spread}, "no command line: policy is given as a type"),
        ({"name": "mine"}, "with a scenario that has no name of its own"),
        ({"policy": "a dir/p.py:Mine"}, "python -m sim run tour --seed 1 --set 'policy=a dir/p.py:Mine'"),
    ],
)
def test_what_has_no_command_line_says_so(changes, told):
    assert told in Scenario.named("tour").replace(**changes).write_command(1)
