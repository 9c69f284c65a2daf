"""Key files: one owner, one seed, never lost to an overwrite."""

from __future__ import annotations

import os
import stat

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
