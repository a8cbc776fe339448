"""A comparison as one HTML file that needs nothing else: the data, tables made here, pictures drawn by scripts."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from depthup.report.compare import Comparison
from depthup.report.tables import Cell, Table, tables

HERE = Path(__file__).parent
SCRIPTS = ("scatter.js", "page.js")


def page(comparison: Comparison) -> str:
    """The page's HTML. Nothing in it is loaded from elsewhere."""
    # Nothing that stands for a mark below survives escaping, so no name can be taken for one.
    data = json.dumps(comparison.to_dict(), ensure_ascii=False).replace("<", r"\u003c")
    bases = ", ".join(base.name for base in comparison.bases)
    parts = {
        "title": escape(f"{len(comparison.runs)} {'run' if len(comparison.runs) == 1 else 'runs'} on {bases}"),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in comparison.notes),
        "findings": "".join(f"<p>{escape(finding)}</p>" for finding in comparison.findings),
        "tables": "".join(map(_table, tables(comparison))),
        "data": data,
        "script": "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    text = (HERE / "page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text


def _table(table: Table) -> str:
    classes = [" class=number" if numeric else "" for numeric in table.numeric]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{escape(name)}</button></th>'
        for name, kind in zip(table.header, classes, strict=True)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row, classes))}</tr>" for row in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="quiet">{escape(table.caption)}</p>'
    )


def _cell(cell: Cell, kind: str) -> str:
    value = "" if cell.value is None else escape(str(cell.value))
    return f'<td{kind} data-value="{value}">{escape(cell.text)}</td>'
