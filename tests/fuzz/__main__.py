"""`python -m tests.fuzz --seconds 20`: every decoder in a process of its own; `python -m tests.fuzz kad` is one of them.

A crash, a hang of five seconds or half a gigabyte ends it with the input in out/fuzz. What is found stays there as a corpus,
so the next run goes on from it.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
OUT = Path("out/fuzz")
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith(("_", "test_")))
HANG_S, MEMORY_MB, INPUT_BYTES_MAX = 5, 512, 4096
PROCESSES = 2


def run(name: str, seconds: int) -> None:
    """Fuzz one decoder in this process, which ends with it."""
    try:
        import atheris
    except ImportError:
        sys.exit(
            "atheris is not installed: run `make fuzz`, or pip install -e '.[fuzz]' (Python 3.11 to 3.13, x86-64 Linux)"
        )
    with atheris.instrument_imports(include=["quiver"]):
        target = importlib.import_module(f"tests.fuzz.{name}")
    corpus = OUT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={OUT}/{name}-", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.one_input)
    atheris.Fuzz()


def run_apart(name: str, seconds: int) -> bool:
    """Fuzz one decoder in a process of its own; False if something broke it. Says so when it is done."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--here", "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    inputs = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    if done.returncode or not inputs:
        print(f"{name}: FAILED after {inputs[-1] if inputs else 'no'} inputs\n{done.stdout}{done.stderr}", flush=True)
        return False
    print(f"{name}: {int(inputs[-1]):,} inputs in {seconds} s", flush=True)
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them by default")
    parser.add_argument("--seconds", type=int, default=20, help="for each decoder (20)")
    parser.add_argument("--here", action="store_true", help="one decoder, in this process")
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"{name!r} is none of {', '.join(NAMES)}")
    if options.here:
        run(options.names[0], options.seconds)
        return
    names = options.names or NAMES
    with ThreadPoolExecutor(PROCESSES) as pool:
        passed = list(pool.map(lambda name: run_apart(name, options.seconds), names))
    if not all(passed):
        failed = [name for name, has_passed in zip(names, passed, strict=True) if not has_passed]
        sys.exit(f"failed: {', '.join(failed)}; the inputs are in {OUT}")


if __name__ == "__main__":
    main()
