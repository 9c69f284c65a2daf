"""The command line: help for each command, one-line errors, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from quiver.errors import Unavailable, UsageError
from quiver.live import config, process
from quiver.live.__main__ import main

COMMANDS = ("bootstrap", "aggregator", "provider", "gateway", "init", "doctor", "client", "devnet")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0 and f"python -m quiver.live {command}" in shown.split("examples:")[1]


def test_a_wrong_config_is_one_line_and_code_2(tmp_path, capsys):
    path = tmp_path / "gateway.toml"
    path.write_text('role = "gateway"\nkye = "x"\n')
    assert main(["gateway", "--config", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("quiver: ") and "unknown key 'kye'" in line


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--config", "x.toml", "--fast"])
    assert left.value.code == 2 and "--fast" in capsys.readouterr().err


def test_init_makes_a_network_and_its_nodes_and_refuses_to_do_it_twice(tmp_path, capsys):
    assert main(["init", "network", "--directory", str(tmp_path), "--name", "mine", "--port", "4001"]) == 0
    assert config.load_network(tmp_path / "network.toml").name == "mine"
    assert main(["init", "network", "--directory", str(tmp_path)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert main(["init", "gateway", "--directory", str(tmp_path), "--model", f"m:1={'ab' * 32}"]) == 0
    assert config.load_any(tmp_path / "gateway.toml").models == {"m:1": "ab" * 32}
    assert main(["init", "provider", "--directory", str(tmp_path), "--model", "m:1=zz"]) == 2


def run(action, **options):
    async def body(stop):
        return await action(stop)

    return process.run(body, **options)


def test_errors_become_one_line_and_their_code(capsys):
    async def fail(error):
        raise error

    for error, code in ((UsageError("wrong\nkey"), 2), (Unavailable("later"), 1), (ValueError("oops"), 70)):
        assert run(lambda stop, error=error: fail(error)) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("quiver: ")]
    assert lines[:2] == ["quiver: wrong key", "quiver: later"] and "bug: ValueError: oops" in lines[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_the_work_ends_by_itself(number):
    async def work(stop):
        os.kill(os.getpid(), number)
        await stop.wait()
        await asyncio.sleep(0)

    assert run(work) == 0
