"""The other CPythons of this machine, found by name on PATH.

`python -m tests.determinism.interpreters` prints a line for each: version and path. `make interpreters` reads that and
gives each a virtual environment with the plain install.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# 3.11 is the oldest Python the project supports; names nobody has installed cost a search of PATH each.
NAMES = [f"python3.{minor}" for minor in range(11, 21)]
QUESTION = (
    "import sys, platform; "
    "print(platform.python_implementation(), '%d.%d' % sys.version_info[:2], sys.executable, sep='\\n')"
)


class Interpreter(NamedTuple):
    """`version` is like 3.12."""

    version: str
    executable: str

    @property
    def virtual_python(self) -> str:
        """The python of its virtual environment, relative to the checkout."""
        return f".venv-{self.version}/bin/python"

    @property
    def is_installed(self) -> bool:
        """Whether `make interpreters` came to its end for it."""
        return (ROOT / f".venv-{self.version}" / ".setup-stamp").exists()


@cache
def find_others() -> list[Interpreter]:
    """CPythons of another minor version than ours. Each name was run: a shim may name a version it can't start."""
    own = "{}.{}".format(*sys.version_info)
    found = [interpreter for name in NAMES if (interpreter := ask(name)) is not None]
    return [interpreter for interpreter in found if interpreter.version != own]


def ask(name: str) -> Interpreter | None:
    """What the program of that name is; None if there is none, it does not start, or is no CPython."""
    if shutil.which(name) is None:
        return None
    done = subprocess.run([name, "-c", QUESTION], env=every_pyenv(), capture_output=True, text=True)
    implementation, version, executable, *_ = [*done.stdout.splitlines(), "", "", ""]
    return Interpreter(version, executable) if implementation == "CPython" else None


def every_pyenv() -> dict[str, str]:
    """Our environment with all versions of pyenv switched on: its names on PATH start only those that are."""
    environment = dict(os.environ)
    if shutil.which("pyenv"):
        listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout.split()
        released = [version for version in listed if re.fullmatch(r"3\.\d+\.\d+", version)]
        environment["PYENV_VERSION"] = ":".join(released)
    return environment


if __name__ == "__main__":
    sys.stdout.writelines(f"{version} {executable}\n" for version, executable in find_others())
