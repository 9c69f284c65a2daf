"""The bench against other makers: our program answers as theirs do, and a maker that is not installed is skipped with its reason."""

from __future__ import annotations

import asyncio

import pytest

from tests.bench import rows_makers
from tests.interop import installed
from tests.interop.foreign import CommandFailed


def test_our_program_asks_its_like_and_tells_what_it_took():
    async def story():
        pair = await rows_makers.Pair.start("ours", rows_makers.OURS)
        try:
            measured = await pair.ask(64)
            assert measured.rate > 0 and 0 < measured.cpu_us < 2e6
            with pytest.raises(CommandFailed, match="peer id"):
                await pair._ends[0].call("ask", peer="nobody", requests=1, at_once=1)
        finally:
            await pair.stop()

    asyncio.run(story())


def test_a_maker_that_is_not_installed_gives_no_row_but_its_reason(monkeypatch, capsys):
    def command(kind):
        raise installed.NotInstalled("run `make interop`")

    monkeypatch.setattr(installed, "command", command)
    assert rows_makers.rows(quick=True, command="") == []
    assert capsys.readouterr().out == "skipped  js-libp2p: run `make interop`\n"
