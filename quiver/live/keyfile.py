"""The secret seed of a node: 32 bytes in a file that only its owner can read, as they are or under a passphrase.

A locked file is `QUIVer/key/v1` | opslimit4 | memlimit8 | salt16 | nonce24 | box48: XSalsa20-Poly1305 under Argon2id of the passphrase.
The seed never reaches a log or a message, a passphrase never a command line: it comes from a file or a prompt.
"""

from __future__ import annotations

import getpass
import os
import resource
import stat
import struct
import sys
from pathlib import Path

import nacl.exceptions
import nacl.pwhash.argon2id as argon2id
import nacl.secret
import nacl.utils

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair

SEED_BYTES = 32
PASSPHRASE_VARIABLE = "QUIVER_PASSPHRASE_FILE"
PASSPHRASE_BYTES_MAX = 1024
_MODE = 0o600
_TAG = b"QUIVer/key/v1"
_LIMITS = struct.Struct(">IQ")
_LOCKED_BYTES = len(_TAG) + _LIMITS.size + argon2id.SALTBYTES + 24 + 16 + SEED_BYTES
# libsodium's "moderate" (256 MiB, under a second). A file that asks for more than "sensitive" (1 GiB) is not ours.
OPS, MEMORY_BYTES = argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE
_OPS_MAX, _MEMORY_BYTES_MAX = argon2id.OPSLIMIT_SENSITIVE, argon2id.MEMLIMIT_SENSITIVE


def create(path: Path, passphrase: bytes | None = None) -> KeyPair:
    """A new random seed in a new file; `UsageError` if the file is already there, because a lost key is lost money."""
    write_no_core()
    seed = os.urandom(SEED_BYTES)
    write(path, seed if passphrase is None else lock(seed, passphrase))
    return KeyPair(seed)


def write(path: Path, data: bytes) -> None:
    """A new file that only its owner can read; never over another."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)
    except FileExistsError as error:
        raise UsageError(
            f"{path} is already there and is not overwritten: choose another directory, or keep using it"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): correct the path") from error
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        _keep_name(path)
    except OSError as error:
        # Half a key would pass for one, and stand in the way of the next attempt.
        path.unlink(missing_ok=True)
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): free the disk, or choose another path"
        ) from error


def _keep_name(path: Path) -> None:
    """A power cut may take a new file's name away even where its bytes are safe."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> KeyPair:
    """The keys of the seed in `path`; `UsageError` when others can read it or it is not a seed.

    The passphrase of a locked one comes from the file that QUIVER_PASSPHRASE_FILE names, or is asked for at a terminal.
    """
    return KeyPair(load_seed(path))


def load_seed(path: Path, passphrase: bytes | None = None) -> bytes:
    """The seed itself: for backups only."""
    write_no_core()
    data = _read(path, _LOCKED_BYTES)
    if len(data) == SEED_BYTES:
        return data
    if not is_locked(data):
        raise UsageError(f"key file {path} does not hold {SEED_BYTES} bytes: restore it from its backup")
    return unlock(data, read_passphrase(str(path)) if passphrase is None else passphrase, where=str(path))


def write_no_core() -> None:
    """From here on this process and its children leave no memory image when they crash: the seed would be in it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def is_locked(data: bytes) -> bool:
    """Whether these bytes are a seed under a passphrase."""
    return data.startswith(_TAG) and len(data) == _LOCKED_BYTES


def read_locked(path: Path) -> bytes:
    """The bytes of a locked file or backup; `UsageError` for any other."""
    data = _read(path, _LOCKED_BYTES)
    if not is_locked(data):
        raise UsageError(f"{path} is no backup of a key: choose a file that `keys backup` wrote")
    return data


def lock(seed: bytes, passphrase: bytes) -> bytes:
    """The seed under a passphrase."""
    salt = nacl.utils.random(argon2id.SALTBYTES)
    box = nacl.secret.SecretBox(argon2id.kdf(32, passphrase, salt, opslimit=OPS, memlimit=MEMORY_BYTES))
    return _TAG + _LIMITS.pack(OPS, MEMORY_BYTES) + salt + bytes(box.encrypt(seed))


def unlock(data: bytes, passphrase: bytes, *, where: str) -> bytes:
    """Inverse of `lock`; `UsageError` for another passphrase or a damaged file."""
    at = len(_TAG)
    ops, memory = _LIMITS.unpack_from(data, at)
    at += _LIMITS.size
    salt, box = data[at : at + argon2id.SALTBYTES], data[at + argon2id.SALTBYTES :]
    if not (1 <= ops <= _OPS_MAX and 8192 <= memory <= _MEMORY_BYTES_MAX):
        raise UsageError(f"{where} is damaged: restore it from its backup")
    try:
        key = argon2id.kdf(32, passphrase, salt, opslimit=ops, memlimit=memory)
        return bytes(nacl.secret.SecretBox(key).decrypt(box))
    except nacl.exceptions.CryptoError as error:
        raise UsageError(f"{where}: the passphrase is another, or the file is damaged") from error


def read_passphrase(what: str, file: Path | None = None, *, twice: bool = False) -> bytes:
    """From `file`, else from the file QUIVER_PASSPHRASE_FILE names, else from a terminal; `UsageError` where there is none."""
    named = file or (Path(name) if (name := os.environ.get(PASSPHRASE_VARIABLE)) else None)
    if named is not None:
        passphrase = _read(
            named, PASSPHRASE_BYTES_MAX, what="passphrase file",
            remedy=f"correct --passphrase-file or {PASSPHRASE_VARIABLE}",
        ).rstrip(b"\r\n")  # fmt: skip
    elif sys.stdin.isatty():
        passphrase = getpass.getpass(f"passphrase of {what}: ").encode()
        if twice and passphrase != getpass.getpass("once more: ").encode():
            raise UsageError("the two passphrases differ: nothing was written")
    else:
        raise UsageError(f"{what} needs a passphrase: name a file that holds it in {PASSPHRASE_VARIABLE}")
    if not passphrase or len(passphrase) > PASSPHRASE_BYTES_MAX:
        raise UsageError(f"a passphrase has 1 to {PASSPHRASE_BYTES_MAX} bytes")
    return passphrase


def _read(
    path: Path, size_max: int, *, what: str = "key file", remedy: str = "make one with `init`, or correct `key`"
) -> bytes:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(size_max + 1)
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read ({error.strerror}): {remedy}") from error
    if mode & 0o077:
        raise UsageError(f"{what} {path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`")
    return data
