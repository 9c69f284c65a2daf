"""The DHT while nodes come and go, at a small size. Simulated, with the same code as live nodes."""

from sim.churn import ipfs, spot
from sim.kademlia_churn import run_kademlia_churn


def test_under_the_ipfs_fit_nodes_and_keys_are_found_and_the_dead_are_forgotten():
    result = run_kademlia_churn(100, ipfs(), duration_s=3600.0, lookups_per_s=2.0)
    assert result.lookups > 1000 and result.found / result.lookups >= 0.97
    assert result.provider_lookups > 300 and result.providers_found / result.provider_lookups >= 0.97
    assert result.records_checked > 2000 and result.stale_records == 0
    # Some answers named a node that had just gone: never one that was gone for longer than its lease of 600 s.
    assert 0 < result.ghosts and 0 < result.ghost_age_s_max <= 600.0 + 5.0
    assert result.starts > 60


def test_the_harsher_spot_fit_and_the_same_digest_again():
    one, two = (run_kademlia_churn(60, spot(), duration_s=900.0, seed=2) for _ in range(2))
    assert one.digest == two.digest and one.found / one.lookups >= 0.97 and one.stale_records == 0


def test_a_lease_that_is_not_kept_would_be_seen(monkeypatch):
    """The check itself can fail: stores that never let go hold records of nodes long gone."""
    monkeypatch.setattr("quiver.dht.record.RecordStore.add", _hold_for_ever)
    result = run_kademlia_churn(150, spot(), duration_s=3600.0, lookups_per_s=1.0)
    assert result.stale_records > 0 and result.ghost_age_s_max > 605.0


def _hold_for_ever(store, key, info, now, *, place=None):
    store._records.setdefault(key, {})[info.peer_id] = (1e18, info, place)
    return True
