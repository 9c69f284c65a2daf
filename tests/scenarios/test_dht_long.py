"""The DHT at its full sizes; minutes each, so `make check-long` runs them. Simulated."""

import resource
import time

import pytest

from sim.churn import ipfs
from sim.kademlia import run_kademlia
from sim.kademlia_churn import run_kademlia_churn

pytestmark = pytest.mark.long


def test_10_000_nodes_find_each_other():
    result = run_kademlia(10_000, 10_000)
    assert result.found / result.lookups >= 0.995


def test_10_000_nodes_under_the_ipfs_fit():
    result = run_kademlia_churn(10_000, ipfs())
    assert result.lookups > 8_000 and result.found / result.lookups >= 0.97
    assert result.provider_lookups > 4_000 and result.providers_found / result.provider_lookups >= 0.97
    assert result.records_checked > 100_000 and result.stale_records == 0
    assert 0 < result.ghosts and result.ghost_age_s_max <= 600.0 + 5.0


def test_100_000_nodes_fit_into_24_gib_and_half_an_hour_of_one_core():
    began_s = time.process_time()
    result = run_kademlia(100_000, 10_000, join_interval_s=0.005)
    assert result.found / result.lookups >= 0.995
    assert time.process_time() - began_s < 1800.0
    # The high-water mark of all tests of this process: an upper bound.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 24 * 2**30
    # Against 10,000 nodes a tenfold network costs half a hop more in theory.
    assert result.hops_mean < 4.5
