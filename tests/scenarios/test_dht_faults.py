"""The DHT under a join storm, a partition and liars around a key: simulated, small, the same code as live nodes."""

import pytest

from sim.kademlia_eclipse import run_eclipse
from sim.kademlia_faults import run_join_storm, run_partition


def test_a_storm_of_newcomers_joins_and_finds_itself_at_once():
    """Twice as many nodes as there were join within one second: nobody is turned away, nobody is lost."""
    result = run_join_storm(60, 120, lookups=120)
    assert result.failed == 0
    assert result.found == result.found_residents == 1.0
    assert result.join_s_p95 < 10.0
    assert run_join_storm(60, 120, lookups=120).digest == result.digest


def test_two_halves_work_alone_and_meet_again():
    """Six hours apart, the halves have mostly forgotten each other; a refresh period later they are one network again."""
    result = run_partition(60, split_s=6 * 3600.0, periods=2, lookups=60)
    assert result.before == result.within_halves == 1.0
    assert result.across_by_refresh[-1] == 1.0


def test_without_liars_everybody_finds_the_record():
    assert run_eclipse(80, 0, lookups=20).found == 1.0
    assert run_eclipse(80, 0, groups=1, lookups=20).found == 1.0


@pytest.mark.parametrize(
    ("liars", "paths", "found"),
    [
        (19, 1, 1.0),  # k - 1 liars leave one place of k
        (20, 1, 0.0),  # k liars nearer than everybody take all announcements
        (20, 2, 1.0),  # on two paths they fill none
        (40, 2, 0.0),  # 2 k liars fill both
        (40, 4, 1.0),
    ],
)
def test_liars_win_when_they_fill_every_path(liars, paths, found):
    assert run_eclipse(150, liars, disjoint_paths=paths, lookups=20).found == found


@pytest.mark.parametrize(("groups", "found"), [(1, 1.0), (9, 1.0), (10, 0.0)])
def test_liars_of_few_address_groups_never_fill_a_path(groups, found):
    """Two peers count of each group: 9 groups take 18 of k = 20 places, 10 groups take all."""
    assert run_eclipse(150, 40, groups=groups, lookups=20).found == found
