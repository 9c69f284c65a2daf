"""How a notebook shows a scenario, a result or a sweep: small HTML tables, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def show(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def show_seconds(value: float | None) -> str:
    """Three digits after the point; none without a value."""
    return "none" if value is None or value != value else f"{value:.3f} s"


def make_record(rows: Mapping[str, Any], caption: str = "") -> str:
    """Names on the left, values on the right."""
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(show(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{_caption(caption)}{body}</table>"


def make_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """One line a row."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(show(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{_caption(caption)}<tr>{head}</tr>{body}</table>"


def _caption(text: str) -> str:
    return f"<caption>{escape(text)}</caption>" if text else ""
