"""The command line: help for each command, one-line errors, exit codes."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quiver.errors import Unavailable, UsageError
from quiver.live import config, config_network, process
from quiver.live.__main__ import main
from quiver.live.arguments import make_parser
from quiver.params import Params

COMMANDS = ("bootstrap", "aggregator", "provider", "gateway", "init", "doctor", "client", "devnet", "settle", "earnings", "keys",
            "ollama-mock")  # fmt: skip


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
    assert config_network.load_network(tmp_path / "network.toml").name == "mine"
    assert main(["init", "network", "--directory", str(tmp_path)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert main(["init", "gateway", "--directory", str(tmp_path), "--model", f"m:1={'ab' * 32}"]) == 0
    assert config.load_any(tmp_path / "gateway.toml").models == {"m:1": "ab" * 32}
    assert main(["init", "provider", "--directory", str(tmp_path), "--model", "m:1=zz"]) == 2


def test_init_of_an_openai_engine_needs_its_digests_and_writes_its_kind(tmp_path, capsys):
    given = ["init", "provider", "--directory", str(tmp_path), "--kind", "openai", "--backend", "http://127.0.0.1:1"]
    assert main(given) == 2 and "give --model NAME=SHA256" in capsys.readouterr().err
    assert main([*given, "--model", "qwen"]) == 2 and "write NAME=DIGEST" in capsys.readouterr().err
    # Nothing is asked of the engine: nobody listens on port 1.
    assert main([*given, "--model", f"qwen={'ab' * 32}"]) == 0
    made = config.load_any(tmp_path / "provider.toml")
    assert (made.backend.kind, made.models[0].name) == ("openai", "qwen")


def test_init_says_what_comes_next_and_a_new_gateway_can_pay(tmp_path, capsys):
    assert main(["init", "gateway", "--directory", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "live doctor --config" in shown and "First pin a model" in shown
    made = config.load_any(tmp_path / "gateway.toml")
    assert made.faucet_credits >= Params.default().channel_deposit_credits


def test_an_engine_that_is_away_is_code_1_because_it_may_come_back(tmp_path, capsys):
    given = ["init", "provider", "--directory", str(tmp_path / "new"), "--backend", "http://127.0.0.1:1"]
    assert main(given) == 1 and "no engine answers at http://127.0.0.1:1" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_devnet_whose_port_is_taken_says_so_before_it_starts_anything(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["devnet", "--directory", str(tmp_path / "net"), "--http-port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port}" in line and "--http-port" in line and not (tmp_path / "net").exists()


def test_a_reader_who_leaves_ends_the_client_without_a_traceback():
    code = "import sys; from quiver.live import process\n"
    code += "async def main(stop):\n  while True: print('x' * 4096, flush=True)\nsys.exit(process.run(main))"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer.stdout.read(1)
    writer.stdout.close()
    assert (writer.wait(10), writer.stderr.read()) == (1, b"")
    writer.stderr.close()


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


def commands_of_the_docs():
    text = (Path(__file__).parents[3] / "docs" / "live.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    assert len(lines) >= 8
    return lines


@pytest.mark.parametrize("line", commands_of_the_docs())
def test_each_command_of_the_docs_is_one_that_is_understood(line):
    words = shlex.split(line, comments=True)
    assert words[:3] == ["python", "-m", "quiver.live"]
    assert make_parser().parse_args(words[3:]).command == words[3]
