"""The scenario of many DHT nodes, at a small size."""

import math

from sim.kademlia import run_kademlia


def test_every_lookup_of_an_existing_node_finds_it():
    ticks = iter([1.0, 5.0])
    result = run_kademlia(60, 60, seed=3, cpu_clock=lambda: next(ticks))
    assert (result.nodes, result.lookups, result.found) == (60, 60, 60)
    assert result.cpu_s == 4.0
    assert result.frames == result.join_frames + result.lookup_frames
    assert result.frames_per_cpu_s == result.frames / 4.0


def test_frames_do_not_depend_on_whether_they_are_encoded_but_the_seed_matters():
    plain, encoded, other = run_kademlia(30, 10), run_kademlia(30, 10, encoded=True), run_kademlia(30, 10, seed=2)
    assert plain.digest == encoded.digest != other.digest
    assert plain.frames == encoded.frames
    assert math.isnan(plain.cpu_s)
