"""The simulation's loop in a cell of a real notebook, whose kernel has an asyncio loop around it."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


def test_a_real_kernel_runs_it_in_a_cell_and_awaits_afterwards():
    """A cell runs on the kernel's own loop: we borrow its thread, and what the kernel awaits goes on behind us."""
    cells = [
        "import asyncio\n"
        "ticks = []\n"
        "async def tick():\n"
        "    while True:\n"
        "        ticks.append(1)\n"
        "        await asyncio.sleep(0.01)\n"
        "ticker = asyncio.create_task(tick())\n"
        "await asyncio.sleep(0.05)",
        "from sim.clock import SimClock\n"
        "from sim.loop import Environment\n"
        "outer, task, before = asyncio.get_running_loop(), asyncio.current_task(), len(ticks)\n"
        "async def story(env, clock):\n"
        "    await clock.sleep(3600)\n"
        "    return clock.now(), asyncio.get_running_loop() is env.loop\n"
        "env = Environment()\n"
        "result = env.run_coroutine(story(env, SimClock(env)))\n"
        "assert result == (3600, True), result\n"
        "assert len(ticks) == before\n"
        "assert (asyncio.get_running_loop(), asyncio.current_task()) == (outer, task)",
        "before = len(ticks)\nawait asyncio.sleep(0.05)\nassert len(ticks) > before and ticker.cancel()\n'went on'",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "'went on'"
