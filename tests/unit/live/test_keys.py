"""`keys`: secrets under a passphrase, never shown, never overwritten, and the same node after a restore."""

from __future__ import annotations

import os
import stat

import nacl.pwhash.argon2id as argon2id
import pytest

from quiver.errors import UsageError
from quiver.live import keyfile
from quiver.live.__main__ import main

WORD = b"correct horse battery staple"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """The same format at libsodium's least cost; one test below takes the real one."""
    monkeypatch.setattr(keyfile, "OPS", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(keyfile, "MEMORY_BYTES", argon2id.MEMLIMIT_MIN)


@pytest.fixture
def word(tmp_path):
    path = tmp_path / "word"
    path.write_bytes(WORD + b"\n")
    path.chmod(0o600)
    return path


def run(capsys, *arguments):
    code = main(["keys", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_locked_key_is_private_shows_no_secret_and_opens_with_its_passphrase(tmp_path, word, capsys, monkeypatch):
    path = tmp_path / "a.key"
    code, made, _ = run(capsys, "init", "--key", path, "--passphrase-file", word)
    assert code == 0 and mode(path) == 0o600
    code, shown, _ = run(capsys, "show", "--key", path, "--passphrase-file", word)
    assert code == 0 and shown == made.partition("\n")[2] and "peer:    12D3KooW" in shown
    monkeypatch.setenv(keyfile.PASSPHRASE_VARIABLE, str(word))
    pair, seed = keyfile.load(path), keyfile.load_seed(path)
    assert f"0x{pair.account.hex()}" in shown
    assert seed not in path.read_bytes() and seed.hex() not in shown


def test_a_backup_restores_the_same_node(tmp_path, word, capsys):
    key, backup, again, plain = (tmp_path / name for name in ("a.key", "a.backup", "b.key", "c.key"))
    pair = keyfile.create(key)
    assert run(capsys, "backup", "--key", key, "--out", backup, "--passphrase-file", word)[0] == 0
    assert mode(backup) == 0o600 and key.read_bytes() not in backup.read_bytes()
    assert run(capsys, "restore", "--backup", backup, "--key", again, "--passphrase-file", word)[0] == 0
    assert run(capsys, "restore", "--backup", backup, "--key", plain, "--plain", "--passphrase-file", word)[0] == 0
    assert mode(again) == mode(plain) == 0o600
    assert keyfile.load(plain).peer_id == pair.peer_id and keyfile.load_seed(again, WORD) == key.read_bytes()


def test_nothing_is_overwritten_and_no_passphrase_is_asked_for_in_vain(tmp_path, word, capsys):
    key, backup = tmp_path / "a.key", tmp_path / "a.backup"
    keyfile.create(key)
    run(capsys, "backup", "--key", key, "--out", backup, "--passphrase-file", word)
    before = key.read_bytes(), backup.read_bytes()
    for arguments in (
        ("init", "--key", key),
        ("backup", "--key", key, "--out", backup),
        ("restore", "--backup", backup, "--key", key),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2 and "is not overwritten" in err
    assert before == (key.read_bytes(), backup.read_bytes())


def test_another_passphrase_a_damaged_file_and_what_is_no_backup_are_refused(tmp_path, word, capsys):
    backup = tmp_path / "a.backup"
    keyfile.write(backup, keyfile.lock(bytes(range(32)), b"other"))
    new = tmp_path / "b.key"
    code, _, err = run(capsys, "restore", "--backup", backup, "--key", new, "--passphrase-file", word)
    assert code == 2 and "the passphrase is another" in err and not new.exists()
    data = keyfile.lock(bytes(range(32)), WORD)
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]
        # Argon2id takes whole KiB of memory, so the last byte of that number says nothing.
        if not keyfile.is_locked(damaged) or at == 24:
            continue
        with pytest.raises(UsageError, match="damaged"):
            keyfile.unlock(damaged, WORD, where="x")
    plain = tmp_path / "plain.key"
    keyfile.create(plain)
    code, _, err = run(capsys, "restore", "--backup", plain, "--key", new, "--passphrase-file", word)
    assert code == 2 and "is no backup of a key" in err


def test_a_passphrase_comes_from_a_private_file_or_a_terminal_only(tmp_path, word, capsys, monkeypatch):
    key = tmp_path / "a.key"
    keyfile.write(key, keyfile.lock(bytes(32), WORD))
    monkeypatch.delenv(keyfile.PASSPHRASE_VARIABLE, raising=False)
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(UsageError, match="needs a passphrase"):
            keyfile.load(key)
    word.chmod(0o644)
    code, _, err = run(capsys, "show", "--key", key, "--passphrase-file", word)
    assert code == 2 and "can be read by others" in err
    word.chmod(0o600)
    word.write_bytes(b"\n")
    code, _, err = run(capsys, "show", "--key", key, "--passphrase-file", word)
    assert code == 2 and "1 to 1024 bytes" in err
    with pytest.raises(SystemExit):
        main(["keys", "init", "--key", str(tmp_path / "b.key"), "--passphrase", "secret"])


def test_at_a_terminal_a_new_passphrase_is_asked_for_twice(tmp_path, capsys, monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    answers = ["one", "two", "one", "one", "one"]
    monkeypatch.delenv(keyfile.PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: answers.pop(0))
    key = tmp_path / "a.key"
    code, _, err = run(capsys, "init", "--key", key)
    assert code == 2 and "differ" in err and not key.exists()
    assert run(capsys, "init", "--key", key)[0] == 0
    assert run(capsys, "show", "--key", key)[0] == 0 and answers == []


def test_the_real_cost_is_libsodiums_moderate(tmp_path, monkeypatch):
    monkeypatch.setattr(keyfile, "OPS", argon2id.OPSLIMIT_MODERATE)
    monkeypatch.setattr(keyfile, "MEMORY_BYTES", argon2id.MEMLIMIT_MODERATE)
    data = keyfile.lock(bytes(32), WORD)
    assert data[13:25] == (3).to_bytes(4, "big") + (1 << 28).to_bytes(8, "big")
    assert keyfile.unlock(data, WORD, where="x") == bytes(32)
