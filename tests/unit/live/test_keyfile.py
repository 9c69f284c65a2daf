"""Key files: one owner, one seed, never lost to an overwrite."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from quiver.errors import UsageError
from quiver.live import keyfile


def test_a_created_key_is_private_and_loads_as_the_same_keys(tmp_path):
    made = keyfile.create(tmp_path / "a.key")
    assert stat.S_IMODE(os.stat(tmp_path / "a.key").st_mode) == 0o600
    assert keyfile.load(tmp_path / "a.key").peer_id == made.peer_id


def test_a_key_is_never_overwritten(tmp_path):
    keyfile.create(tmp_path / "a.key")
    with pytest.raises(UsageError, match="not overwritten"):
        keyfile.create(tmp_path / "a.key")


def test_a_key_others_can_read_is_refused_with_the_command_that_helps(tmp_path):
    path = tmp_path / "a.key"
    keyfile.create(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match=r"mode 0640.*chmod 600"):
        keyfile.load(path)


def test_a_cut_key_and_a_missing_one_are_refused_without_showing_bytes(tmp_path):
    path = tmp_path / "a.key"
    keyfile.create(path)
    path.write_bytes(b"secret")
    with pytest.raises(UsageError, match="does not hold 32 bytes") as refused:
        keyfile.load(path)
    assert "secret" not in str(refused.value)
    with pytest.raises(UsageError, match="make one with `init`"):
        keyfile.load(tmp_path / "none.key")


def test_a_key_that_could_not_be_written_whole_leaves_no_file_that_passes_for_one(tmp_path, monkeypatch):
    path = tmp_path / "a.key"

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device.*free the disk"):
        keyfile.create(path)
    assert not path.exists()
    monkeypatch.undo()
    keyfile.create(path)


def test_the_name_of_a_new_key_is_on_disk_too(tmp_path, monkeypatch):
    synced = []
    true = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(stat.S_ISDIR(os.fstat(file).st_mode)), true(file))[1])
    keyfile.create(tmp_path / "a.key")
    assert synced == [False, True]


def test_who_has_read_a_key_leaves_no_core_file(tmp_path):
    keyfile.create(tmp_path / "a.key")
    story = (
        "import resource, sys, pathlib; from quiver.live import keyfile; hard = resource.getrlimit(resource.RLIMIT_CORE)[1];"
        "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)); keyfile.load(pathlib.Path(sys.argv[1]));"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    told = subprocess.run([sys.executable, "-c", story, tmp_path / "a.key"], capture_output=True, text=True, check=True)
    assert told.stdout == "0\n"


def test_a_passphrase_file_that_is_missing_is_not_called_a_key(tmp_path):
    with pytest.raises(UsageError, match="passphrase file .*none.*correct --passphrase-file"):
        keyfile.read_passphrase("a.key", tmp_path / "none")
