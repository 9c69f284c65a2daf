"""A PostgreSQL server of our own: for `devnet --store postgres`, tests and benches. Whoever has a server gives DATABASE_URL.

It listens on a Unix socket in a directory of its own, waits for its disk (fsync), asks for a random password, and ends with the
process that started it: a shell between them stops it when its standard input ends. PostgreSQL refuses to run as root, so root
starts it as another user. Run as a program it prints where its programs are, and exits with 1 where there are none.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from quiver.errors import Unavailable

START_S, STOP_S, POLL_S = 30.0, 10.0, 0.02
USER = "quiver"
# Whom root starts it as: the first that exists.
UNPRIVILEGED = ("postgres", "nobody")
_DEBIAN = Path("/usr/lib/postgresql")
# Ends with the server; asks it for a fast shutdown when standard input ends.
_KEEPER = """exec 3<&0
"$@" </dev/null 3<&- & server=$!
{ cat <&3 >/dev/null; kill -INT $server; } & keeper=$!
exec 3<&-
wait $server; ended=$?
kill $keeper
exit $ended"""
LOG_TAIL_LINES = 8


def find_programs() -> Path | None:
    """The directory with initdb and postgres: of the newest Debian package, or of PATH."""
    versions = [path for path in _DEBIAN.glob("*/bin") if (path / "initdb").exists() and path.parent.name.isdigit()]
    if versions:
        return max(versions, key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found is not None and shutil.which("postgres") is not None else None


class PostgresServer:
    """Made by `__init__`, started by `start`; a killed one may be started again. `close` removes it."""

    def __init__(self) -> None:
        programs = find_programs()
        if programs is None:
            raise Unavailable("no PostgreSQL server is installed: run `make postgres`, or set DATABASE_URL to one")
        self._programs = programs
        # A socket's path has at most 107 bytes: the system's temporary directory is short, a given one may not be.
        self.directory = Path(tempfile.mkdtemp(prefix="quiver-pg-"))
        self._user = _unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        self._password = secrets.token_urlsafe(16)
        try:
            self._initialise()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """With its password: for DATABASE_URL and drivers, never for a log."""
        return f"postgresql://{USER}:{self._password}@/postgres?host={self.directory}"

    @property
    def pid(self) -> int:
        """Of the server, whose children are its backends."""
        return int((self.directory / "data" / "postmaster.pid").read_text().partition("\n")[0])

    def _initialise(self) -> None:
        secret = self.directory / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password)
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            for path in (self.directory, secret):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        # What initdb writes need not reach the disk: until the first commit nothing is lost with it, and it takes seconds.
        done = subprocess.run(
            [
                str(self._programs / "initdb"), "-D", str(self.directory / "data"), "-U", USER, "--auth=scram-sha-256",
                f"--pwfile={secret}", "--encoding=UTF8", "--locale=C", "--no-sync",
            ],
            capture_output=True, text=True, cwd=self.directory, **self._as_user(),
        )  # fmt: skip
        secret.unlink()
        if done.returncode != 0:
            raise Unavailable(f"initdb failed: {done.stderr.strip()[-400:]}")

    def _as_user(self) -> dict[str, Any]:
        return (
            {}
            if self._user is None
            else {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}
        )

    def start(self) -> None:
        """Return once it answers; `Unavailable` shows the end of its log."""
        log = self.directory / "postgres.log"
        with open(log, "ab") as file:
            self._process = subprocess.Popen(
                [
                    "/bin/sh", "-c", _KEEPER, "sh", str(self._programs / "postgres"), "-D", str(self.directory / "data"),
                    "-k", str(self.directory), "-c", "listen_addresses=",
                ],
                stdin=subprocess.PIPE, stdout=file, stderr=file, cwd=self.directory, start_new_session=True, **self._as_user(),
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:])
                    self.stop()
                    raise Unavailable(f"the PostgreSQL server did not start; the end of its log:\n{tail}") from None
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL to the server, as a crash; its backends end by themselves when they see that it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Ask it to stop; kill what does not."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _unprivileged() -> str | None:
    """Whom to run as; None for ourselves."""
    if os.getuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise Unavailable(f"PostgreSQL does not run as root, and there is no user {' or '.join(UNPRIVILEGED)}")


if __name__ == "__main__":
    found = find_programs()
    sys.stdout.write(f"PostgreSQL in {found}\n" if found else "")
    sys.exit(found is None)
