"""The findings of the DHT experiments are computed from rows: planted ones are told as they are; tiny real ones draw."""

import json
import math

import pandas as pd
import pytest

from experiments import dht_eclipse, dht_hops, dht_rows


def test_hops_are_told_by_size_with_their_growth_per_doubling():
    frame = pd.DataFrame({
        "nodes": [100, 100, 1600], "seed": [1, 2, 1], "hops_mean": [1.4, 1.6, 2.3], "hops_p95": [2, 3, 4],
        "found": [99, 100, 100], "lookups": [100, 100, 100],
    })  # fmt: skip
    finding = dht_hops.find(frame)
    # 0.8 more hops over four doublings.
    assert finding.startswith(
        "Mean hops: 1.50 (p95 3) at 100, 2.30 (p95 4) at 1,600 nodes. Each doubling of the network adds 0.20"
    )
    assert "99.67% of lookups" in finding and finding.endswith("in order of size: 2, 1.")


def test_a_hop_adds_a_bit_and_what_the_nearest_of_k_adds():
    assert dht_hops.compute_bits_per_hop(1) == pytest.approx(1.8327, abs=1e-4)
    assert dht_hops.compute_bits_per_hop(16) == pytest.approx(5.8327, abs=1e-4)
    # Eight times the nodes are three bits.
    assert dht_hops.theory(pd.Series([100, 800]), 1.5) == pytest.approx(
        [1.5, 1.5 + 3 / (1 + math.log2(20) + 0.8327)], abs=1e-3
    )


def test_the_smallest_crowd_that_hides_a_key_is_named():
    rows = [
        {"defence": name, "liars": liars, "seed": seed, "nodes": 70, "questions_mean": 20.0,
         "found": 0.0 if name == "2 paths" and liars >= 40 else 1.0}
        for name in dht_eclipse.DEFENCES for liars in (0, 40, 80) for seed in (1, 2)
    ]  # fmt: skip
    finding = dht_eclipse.find(pd.DataFrame(rows))
    assert "1 path: never hidden (up to 80 liars), 20 questions" in finding
    assert "2 paths: hidden by 40 liars" in finding and "70 honest nodes, 2 seeds" in finding


def test_a_run_leaves_rows_a_manifest_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setitem(dht_hops.SIZES, "quick", {10: 1, 20: 1})
    finding = dht_rows.run(dht_hops, scale="quick", out=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["finding"] == finding and [row["nodes"] for row in manifest["rows"]] == [10, 20]
    assert len(pd.read_parquet(tmp_path / "rows.parquet")) == 2
    assert (tmp_path / "dht_hops.png").stat().st_size > 10_000
    assert "Simulated" in (tmp_path / "dht_hops.txt").read_text()
