"""`python -m quiver.live earnings`: what a node served, and where its money is. The arithmetic is `settlement/earnings`."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from quiver.errors import UsageError
from quiver.gateway.budget import read_sales
from quiver.identity.peer_id import compute_peer_id, peer_id_text
from quiver.live.chain.spent import read_spent
from quiver.live.config import GatewayConfig, ProviderConfig
from quiver.live.settle_desk import Desk, opened_desk
from quiver.ports import Store
from quiver.receipts.log import PayerLog, ProviderLog, payer_channels, provider_channels
from quiver.settlement.books import Move
from quiver.settlement.earnings import (
    NUMBERS,
    By,
    ChannelReport,
    Earning,
    compute_earnings,
    compute_sum,
)


def read_reports(store: Store, *, pays: bool) -> list[ChannelReport]:
    """Every channel of the store, of a payer or of a provider."""
    reports = []
    for terms in [terms for _, terms in payer_channels(store)] if pays else provider_channels(store):
        if pays:
            log: PayerLog | ProviderLog = PayerLog.load(store, terms)
            peer, signed = peer_id_text(compute_peer_id(terms.provider_key)), log.head.cum
        else:
            log = ProviderLog.load(store, terms)
            peer, signed = "0x" + terms.payer.hex(), log.acknowledged.cum
        reports.append(
            ChannelReport(
                channel=terms.channel, peer=peer, cells=log.totals.cells, served=log.head.cum, acknowledged=signed
            )
        )
    return reports


def read_earnings(desk: Desk, *, by: By, since_ms: int) -> list[Earning]:
    """Rows of a provider or a gateway; `UsageError` for a role that sells and buys nothing."""
    if not isinstance(desk.config, ProviderConfig | GatewayConfig):
        raise UsageError("only a provider and a gateway have earnings: give the config of one")
    pays = isinstance(desk.config, GatewayConfig)
    books = desk.read_books()
    spent = read_spent(desk.store, desk.keypair.account, chain_id=desk.network.chain.id)
    books.moves += [Move(at_ms=one.at_ms, gas_wei=one.gas_wei) for one in spent]
    return compute_earnings(
        read_reports(desk.store, pays=pays), books, by=by, since_ms=since_ms, pays=pays,
        sales=read_sales(desk.store) if pays else {},
    )  # fmt: skip


async def show(path: Path, *, by: str, since: str | None, form: str) -> str:
    """The report as `table`, `csv` or `json`."""
    async with opened_desk(path) as desk:
        rows = read_earnings(desk, by=By(by), since_ms=parse_day(since))
    if form == "json":
        return msgspec.json.encode({"rows": rows, "sum": compute_sum(rows)}).decode()
    if form == "csv":
        return _csv(rows)
    return _table([*rows, compute_sum(rows)] if by != By.TOTAL else rows or [Earning(key=By.TOTAL)])


def parse_day(text: str | None) -> int:
    """utc_ms of a day's beginning; 0 for None."""
    if text is None:
        return 0
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise UsageError(f"--since {text}: write a day as 2026-01-31 (UTC)") from error


def _csv(rows: list[Earning]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("key", *NUMBERS))
    writer.writerows((row.key, *(getattr(row, name) for name in NUMBERS)) for row in rows)
    return out.getvalue().rstrip("\n")


def _table(rows: list[Earning]) -> str:
    cells = [("", *NUMBERS), *((row.key, *(f"{getattr(row, name):,}" for name in NUMBERS)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    )
