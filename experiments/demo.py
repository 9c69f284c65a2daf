"""`make demo`: a thousand simulated providers on a real trace, then a live network on loopback; one page for both.

Part (a) is simulated and says so; part (b) runs real processes, real QUIC and official clients against a mock engine.
"""

from __future__ import annotations

import argparse
import html
import json
import time
from pathlib import Path
from typing import Any

import openai
import pandas as pd

from quiver.live.client.verify import verify_receipt
from quiver.live.devnet import MOCK_MODEL, Devnet
from sim import Scenario, World

PROMPTS = ("Why is the sky blue?", "Name three rivers.", "What is a Merkle tree?", "Count to five.")
# An epoch of the demo's network, and how long its commitment and claim may take after it.
EPOCH_MS, CLAIM_WAIT_S = 3000, 40.0


def simulate(out: Path, *, duration_s: float, providers: int) -> pd.DataFrame:
    """Part (a): run, save frames and a figure, return a table of two columns."""
    scenario = Scenario.named("azure-planetlab").replace(duration_s=duration_s, providers=providers, fallback=True)
    result = World(scenario, seed=1).run()
    result.save(out)
    for column in ("ttft_s", "e2e_s"):
        result.plot.cdf(column).savefig(out / f"{column}.png", dpi=120)
    s = result.summary
    rows = {
        "world": f"simulated, {s['nodes']:,} nodes, {duration_s:g} s, {s['data']} trace",
        "fidelity": ", ".join(f"{k} {v}" for k, v in s["fidelity"].items()),
        "requests": f"{s['requests']:,}",
        "completed / rejected / failed": f"{s['completed']:,} / {s['rejected']:,} / {s['failed']:,}",
        "TTFT p50 / p99 (s)": f"{s['ttft_s']['p50']:.3f} / {s['ttft_s']['p99']:.3f}",
        "e2e p50 / p99 (s)": f"{s['e2e_s']['p50']:.2f} / {s['e2e_s']['p99']:.2f}",
        "frames delivered": f"{s['messages']:,}",
        "receipts / epochs": f"{s['receipts']:,} / {s['epochs']}",
        "credits owed / paid": f"{s['credits_owed']:,} / {s['credits_paid']:,}",
        "trace digest": s["digest"][:16],
        "CPU (s) / peak memory (MB)": f"{s['cpu_s']:.1f} / {s['peak_rss_bytes'] / 1e6:.0f}",
    }
    return pd.DataFrame(list(rows.items()), columns=["simulated", "value"])


def run_live() -> pd.DataFrame:
    """Part (b): real processes; every figure comes from what the client received or the ledger holds."""
    with Devnet(epoch_ms=EPOCH_MS, speed=10.0) as network:
        client = openai.OpenAI(base_url=f"{network.gateway_url}/v1", api_key="none", max_retries=0, timeout=60.0)
        chunks = verified = 0
        first_s = []
        for prompt in PROMPTS:
            began = time.perf_counter()
            text, proof = "", None
            stream = client.chat.completions.create(
                model=MOCK_MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=48, stream=True
            )
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    if not text:
                        first_s.append(time.perf_counter() - began)
                    text += chunk.choices[0].delta.content
                    chunks += 1
                proof = (chunk.model_extra or {}).get("quiver") or proof
            if proof is not None:
                verify_receipt(proof, answer=text)
                verified += 1
        claimed = wait_for_claim(network)
        rows = {
            "network": f"live on loopback, {len(network.processes)} processes, mock engine",
            "answers streamed with the openai client": f"{len(PROMPTS)} ({chunks} chunks)",
            "receipts verified": str(verified),
            "median time to first token (s)": f"{sorted(first_s)[len(first_s) // 2]:.3f}",
            **claimed,
        }
    if verified != len(PROMPTS):
        raise SystemExit(f"only {verified} of {len(PROMPTS)} answers carried a receipt that verifies")
    return pd.DataFrame(list(rows.items()), columns=["live", "value"])


def wait_for_claim(network: Devnet) -> dict[str, str]:
    """Wait until the aggregator committed an epoch and a provider's claim was paid, read from their logs."""
    deadline = time.monotonic() + CLAIM_WAIT_S
    while True:
        committed = read_events(network, "aggregator", "epoch_committed")
        paid = [
            moved["event"]["paid"]
            for name in network.providers
            for moved in read_events(network, name, "ledger_moved")
            if moved["event"]["paid"]
        ]
        if committed and paid:
            return {"epochs committed": str(len(committed)), "credits claimed": f"{sum(paid):,} in {len(paid)} claims"}
        if time.monotonic() > deadline:
            raise SystemExit(f"no paid claim within {CLAIM_WAIT_S:g} s; see the logs:\n{network.tail('aggregator')}")
        time.sleep(0.2)


def read_events(network: Devnet, name: str, kind: str) -> list[dict[str, Any]]:
    """Trace events of one node, from its log."""
    lines = (json.loads(line) for line in network.log_path(name).read_text().splitlines())
    return [line["event"] for line in lines if line.get("event", {}).get("type") == kind]


def write_page(out: Path, tables: list[pd.DataFrame]) -> Path:
    """One self-contained folder: tables, figures, what is simulated and what is not."""
    style = "body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em;text-align:left}"
    parts = [f"<!doctype html><meta charset=utf-8><title>QUIVer demo</title><style>{style}</style><h1>QUIVer demo</h1>"]
    for table in tables:
        parts.append(f"<h2>{html.escape(str(table.columns[0]))}</h2>" + table.to_html(index=False, border=0))
        if table.columns[0] == "simulated":
            parts += [f'<img src="{name}.png" width="600" alt="{name}">' for name in ("ttft_s", "e2e_s")]
            parts.append("<p>Simulated: role code is the network's own, machines, links and clients are models.</p>")
    page = out / "index.html"
    page.write_text("\n".join(parts))
    return page


def main() -> None:
    """Both parts, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m experiments.demo\n  python -m experiments.demo --duration 60 --providers 200",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--duration", type=float, default=600.0, help="simulated seconds, default 600")
    parser.add_argument("--providers", type=int, default=1000, help="simulated providers, default 1000")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = []
    for part in (lambda: simulate(options.out, duration_s=options.duration, providers=options.providers), run_live):
        tables.append(part())
        print(tables[-1].to_string(index=False), end="\n\n")
    print(f"report: {write_page(options.out, tables)}")


if __name__ == "__main__":
    main()
