"""A sweep: the same rows in the same order over any number of processes, after a stop, and from a folder."""

from __future__ import annotations

import json
import linecache

import pandas as pd
import pytest

from quiver.errors import UsageError
from quiver.selection.power_of_two import PowerOfTwo
from quiver.selection.random_choice import RandomChoice
from sim import Scenario, World
from sim.result import Result
from sim.sweep import Sweep

BASE = Scenario.named("tour").replace(
    providers=4, gateways=1, duration_s=8.0, arrivals=1.0, topology="synthetic", workload="azure-conv-synthetic"
)
# What a run measured of this machine, not of the simulated world.
MEASURED = ["cpu_s", "wall_s", "peak_rss_bytes"]


def sweep() -> Sweep:
    return BASE.sweep(policy=[PowerOfTwo, RandomChoice], seed=[3, 1])


@pytest.fixture(scope="module")
def whole():
    """The sweep without interruption, folder or processes."""
    return sweep().run(processes=1, progress=False)


def check_same(runs, whole) -> None:
    pd.testing.assert_frame_equal(runs.requests, whole.requests)
    pd.testing.assert_frame_equal(runs.summaries.drop(columns=MEASURED), whole.summaries.drop(columns=MEASURED))
    for mine, theirs in zip(runs.results, whole.results, strict=True):
        pd.testing.assert_frame_equal(mine.providers, theirs.providers)
        pd.testing.assert_frame_equal(mine.epochs, theirs.epochs)


def test_runs_are_in_the_order_of_the_sweep(whole):
    told = whole.summaries[["policy", "seed"]].to_records(index=False).tolist()
    assert told == [("PowerOfTwo", 3), ("PowerOfTwo", 1), ("RandomChoice", 3), ("RandomChoice", 1)]


def test_processes_give_the_same_rows_in_the_same_order(whole):
    check_same(sweep().run(processes=2, progress=False), whole)


def count_runs(monkeypatch, *, stop_after: int | None = None) -> list[tuple[str, int]]:
    """Notes which worlds are run from now on; the one after `stop_after` is stopped as Ctrl-C does."""
    run, made = World.run, []

    def noted(self, *, progress=True):
        if len(made) == stop_after:
            raise KeyboardInterrupt
        made.append((self.collector.policy, self.seed))
        return run(self, progress=progress)

    monkeypatch.setattr(World, "run", noted)
    return made


def test_a_stopped_sweep_goes_on_where_it_was(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        made = count_runs(patch, stop_after=3)
        sweep().run(processes=1, progress=False, directory=tmp_path)
    assert made == [("PowerOfTwo", 3), ("PowerOfTwo", 1), ("RandomChoice", 3)]
    assert len(list(tmp_path.iterdir())) == 3

    made = count_runs(monkeypatch)
    runs = sweep().run(processes=1, progress=False, directory=tmp_path)
    assert made == [("RandomChoice", 1)]
    check_same(runs, whole)

    # Nothing is left to do, and other runs of the folder are left alone.
    check_same(sweep().run(processes=1, progress=False, directory=tmp_path), whole)
    assert made == [("RandomChoice", 1)]


def test_a_stored_run_that_is_damaged_or_of_other_code_is_run_again(whole, tmp_path, monkeypatch):
    sweep().run(processes=1, progress=False, directory=tmp_path)
    places = [tmp_path / result.requests["run_id"].iloc[0] for result in whole.results]
    (places[0] / "requests.parquet").write_bytes(b"cut short")
    (places[1] / "epochs.parquet").unlink()
    (places[2] / "manifest.json").write_text("{")
    manifest = json.loads((places[3] / "manifest.json").read_text())
    (places[3] / "manifest.json").write_text(json.dumps(manifest | {"code": "of yesterday"}))
    made = count_runs(monkeypatch)
    check_same(sweep().run(processes=1, progress=False, directory=tmp_path), whole)
    assert len(made) == 4
    assert Result.load(places[3]).manifest["code"] == manifest["code"]


def test_rows_come_back_from_parquet_as_they_were(whole, tmp_path):
    for number, result in enumerate(whole.results):
        loaded = Result.load(result.save(tmp_path / str(number)))
        for name in ("requests", "providers", "epochs", "evidence"):
            pd.testing.assert_frame_equal(getattr(loaded, name), getattr(result, name))
        assert loaded.summary == result.summary and loaded.digest == result.digest


CELL = """
class Never:
    def sessions(self, rng):
        while True:
            yield 1e9, AWAY_S
class Pricey:
    def price(self, profile, rng):
        return Price(prompt=FACTOR, completion=FACTOR)
"""


def test_classes_of_a_cell_go_to_other_processes_and_come_back_as_the_same_scenario(tmp_path):
    linecache.cache["<cell-sweep>"] = (len(CELL), None, CELL.splitlines(keepends=True), "<cell-sweep>")
    from quiver.provider.pricing import Price

    space = {"__name__": "__main__", "AWAY_S": 5.0, "FACTOR": 70_000, "Price": Price}
    exec(compile(CELL, "<cell-sweep>", "exec"), space)
    base = BASE.replace(churn=space["Never"], pricing=space["Pricey"])
    runs = base.sweep(seed=[1, 2]).run(processes=2, progress=False, directory=tmp_path)
    assert {result.summary["scenario_hash"] for result in runs.results} == {base.hash()}
    assert {path.name for path in tmp_path.iterdir()} == {f"{base.hash()}-1", f"{base.hash()}-2"}
    assert set(runs.results[0].providers["prompt_price"]) == {70_000}


class Broken:
    """Passes the trial at the start, then breaks."""

    name = "broken"

    def choose(self, request, candidates, *, now, rng):
        if now > 1.0:
            raise ZeroDivisionError("no idea whom to take")
        from quiver.selection.policy import rank

        return rank(candidates, lambda c: 0.0, policy=self.name, reason="", rng=rng)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_fails_stops_the_sweep_with_its_own_error(processes, tmp_path):
    with pytest.raises(ZeroDivisionError, match="no idea whom to take"):
        BASE.sweep(policy=[Broken], seed=range(6)).run(processes=processes, progress=False, directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_progress_counts_what_is_there_already(tmp_path, capsys):
    small = BASE.sweep(seed=[1, 2])
    small.run(processes=1, directory=tmp_path)
    assert "2/2" in capsys.readouterr().err
    small.run(processes=1, directory=tmp_path)
    assert "2/2" in capsys.readouterr().err


def test_no_processes_are_a_mistake():
    with pytest.raises(UsageError, match="processes must be at least 1, not 0"):
        sweep().run(processes=0)
