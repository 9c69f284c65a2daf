"""Whatever the umask is, a store and a shared chain are their owner's alone; what the operator made keeps its mode."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from quiver.ids import Address
from quiver.live.__main__ import main
from quiver.live.stores.sqlite import SqliteStore
from quiver.values.ledger import Deposit
from tests.live.ledger_user import open_ledger


@pytest.fixture(autouse=True)
def open_umask():
    """Nothing is private by chance."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder):
    """While the files are in use: SQLite takes `-wal` and `-shm` away with its last connection."""
    return {path.name: mode(path) for path in sorted(folder.iterdir())}


def written(path):
    """Modes of what is beside a store that is open and holds something."""

    async def story():
        store = SqliteStore(path)
        await store.commit([("t", b"key", b"value")])
        assert store.get("t", b"key") == b"value"
        found = modes(path.parent)
        await store.close()
        return found

    return asyncio.run(story())


def test_a_store_and_the_folders_it_needs_are_the_owners_alone(tmp_path):
    path = tmp_path / "a" / "b" / "node.sqlite"
    names = ("node.sqlite", "node.sqlite-shm", "node.sqlite-wal", "node.sqlite.lock")
    assert written(path) == dict.fromkeys(names, 0o600)
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700


@pytest.mark.parametrize("kind", ["local", "evm"])
def test_so_is_a_shared_chain(tmp_path, kind):
    folder = tmp_path / "chain"

    async def story():
        ledger = open_ledger(kind, str(folder / "ledger.sqlite"), Address(b"\1" * 20))
        await ledger.submit(Deposit(sender=Address(b"\1" * 20), amount=5))
        found = modes(folder)
        await ledger.close()
        return found

    names = ("ledger.sqlite", "ledger.sqlite-shm", "ledger.sqlite-wal", "ledger.sqlite.lock")
    assert asyncio.run(story()) == dict.fromkeys(names, 0o600) and mode(folder) == 0o700


def test_what_the_operator_made_keeps_its_mode(tmp_path):
    """Such as a file that a group shares, or one that an older version made."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o750)
    path = folder / "node.sqlite"
    path.touch(mode=0o640)
    assert [written(path)[f"node.sqlite{end}"] for end in ("", "-wal", "-shm")] == [0o640] * 3
    assert mode(folder) == 0o750


def test_a_link_to_a_file_that_is_not_there_yet_leads_to_a_private_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "node.sqlite").symlink_to(tmp_path / "disk" / "real.sqlite")
    written(tmp_path / "node.sqlite")
    assert mode(tmp_path / "disk" / "real.sqlite") == 0o600


def test_init_makes_a_private_folder_and_a_network_file_for_all(tmp_path, capsys):
    folder = tmp_path / "net"
    assert main(["init", "network", "--directory", str(folder), "--port", "4001"]) == 0
    found = modes(folder)
    assert mode(folder) == 0o700 and found.pop("network.toml") == 0o644
    assert set(found.values()) == {0o600}
