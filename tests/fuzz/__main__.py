"""`python -m tests.fuzz --seconds 20`: every target in a process of its own; `python -m tests.fuzz kad` is one of them.

A target is a decoder, or a connection's driver or the DHT's answers as a hostile peer meets them. A crash, a hang of five seconds
or half a gigabyte ends it with the input in out/fuzz. What is found stays there as a corpus, so the next run goes on from it.
out/fuzz/report.md says what was run.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.report import Outcome, read_outcome, write_report

HERE = Path(__file__).parent
OUT = Path("out/fuzz")
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith(("_", "test_", "report")))
HANG_S, MEMORY_MB, INPUT_BYTES_MAX = 5, 512, 4096
PROCESSES = 2


def run(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    # aioquic warns of every frame that breaks a rule.
    logging.disable(logging.CRITICAL)
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


def run_apart(name: str, seconds: int) -> Outcome:
    """Fuzz one target in a process of its own. Says so when it is done."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--here", "--seconds", str(seconds)]
    began_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    outcome = read_outcome(name, done.returncode, done.stderr, time.monotonic() - began_s)
    print(outcome.line, flush=True)
    if not outcome.has_passed:
        print(f"{done.stdout}{done.stderr}", flush=True)
    return outcome


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them by default")
    parser.add_argument("--seconds", type=int, default=20, help="for each target (20)")
    parser.add_argument("--here", action="store_true", help="one target, in this process")
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"{name!r} is none of {', '.join(NAMES)}")
    if options.here:
        run(options.names[0], options.seconds)
        return
    names = options.names or NAMES
    with ThreadPoolExecutor(PROCESSES) as pool:
        outcomes = list(pool.map(lambda name: run_apart(name, options.seconds), names))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.md").write_text(write_report(outcomes, options.seconds, is_part=bool(options.names)))
    if failed := [one.name for one in outcomes if not one.has_passed]:
        sys.exit(f"failed: {', '.join(failed)}; the inputs are in {OUT}")


if __name__ == "__main__":
    main()
