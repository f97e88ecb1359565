"""Pages of paragraphs and tables: csv for programs, markdown and html for people, the same bytes every time."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.continuous import SMALL_SPREAD

UNDEFINED = "–"
_CSS = """
body{font:14px/1.4 system-ui,sans-serif;margin:1.2em;color:#222;max-width:75em}h1{font-size:1.5em}h2{font-size:1.2em}
table{border-collapse:collapse;margin:.6em 0 1.2em}
th,td{padding:.25em .5em;border-bottom:1px solid #ddd;vertical-align:top;max-width:28em}
th{border-bottom:2px solid #888}td b{background:#e3f1e8}p{max-width:60em}
table:has(th:nth-child(7)){font-size:.87em}table:has(th:nth-child(7)) :is(th,td){padding:.25em .3em}
"""


@dataclass
class Page:
    """Paragraphs and tables in reading order; in a cell of text ``**text**`` is bold."""

    title: str
    parts: list[tuple[str, str | pd.DataFrame]] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.parts.append(("h2", text))

    def text(self, text: str) -> None:
        self.parts.append(("p", text))

    def table(self, frame: pd.DataFrame) -> None:
        """Add a table; an empty one is left out."""
        if len(frame):
            self.parts.append(("table", frame))

    def markdown(self) -> str:
        lines = [f"# {self.title}"]
        for kind, value in self.parts:
            if isinstance(value, pd.DataFrame):
                cells = value.map(lambda cell: str(cell).replace("|", "\\|"))
                lines.append(cells.to_markdown(index=False, colalign=_alignment(value), disable_numparse=True))
            else:
                lines.append(f"## {value}" if kind == "h2" else value)
        return "\n\n".join(lines) + "\n"

    def html(self) -> str:
        """Return the page as one self-contained html file."""
        from tabulate import tabulate

        lines = [f"<!doctype html><meta charset='utf-8'><title>{html.escape(self.title)}</title><style>{_CSS}</style>"]
        lines.append(f"<h1>{html.escape(self.title)}</h1>")
        for kind, value in self.parts:
            if isinstance(value, pd.DataFrame):
                heads = [html.escape(str(name)) for name in value.columns]
                cells = value.map(_html_cell).to_numpy().tolist()
                lines.append(
                    tabulate(cells, heads, tablefmt="unsafehtml", colalign=_alignment(value), disable_numparse=True)
                )
            else:
                lines.append(f"<{kind}>{html.escape(value)}</{kind}>")
        return "\n".join(lines) + "\n"

    def write(self, csv: pd.DataFrame, out: Mapping[str, Path]) -> None:
        """Write a table of numbers as ``csv`` and the page as ``md`` and ``html``, those roles that `out` has."""
        if "csv" in out:
            write_csv(csv, out["csv"])
        for role, render in (("md", self.markdown), ("html", self.html)):
            if role in out:
                out[role].write_text(render(), encoding="utf-8")


def _alignment(frame: pd.DataFrame) -> list[str]:
    """Return ``right`` for columns with numbers, ``left`` for columns of words."""
    numbers = re.compile(r"^\**[<+−-]?\d*\.?\d+")
    return ["right" if any(numbers.match(str(cell)) for cell in frame[c]) else "left" for c in frame.columns]


def _html_cell(cell: Any) -> str:
    text = html.escape(str(cell))
    if len(text) < 28:
        text = re.sub("([;:])&nbsp;", r"\1 ", text.replace(" ", "&nbsp;"))
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a csv: six decimals, an empty cell for what is undefined, unix line ends."""
    frame.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


def number(value: Any, digits: int = 3) -> str:
    """Return a number for people; an en dash where it is undefined."""
    if pd.isna(value):
        return UNDEFINED
    text = f"{value:.{digits}f}"
    return text[1:] if float(text) == 0 and text.startswith("-") else text


def spread_ratio(value: Any, digits: int = 2) -> str:
    """Return a ratio of spreads for people, with a warning sign where the prediction is flat."""
    return number(value, digits) + (" ⚠" if value < SMALL_SPREAD else "")


def with_interval(value: Any, low: Any, high: Any) -> str:
    """Return a number with its interval, where there is one."""
    return number(value) + (f" [{number(low, 2)}, {number(high, 2)}]" if not pd.isna(low) else "")


def mark_best(cells: Sequence[str], values: Iterable[float], *, lower: bool = False) -> list[str]:
    """Return cells, those of the best value in bold; nothing is marked where fewer than two are defined."""
    numbers = np.asarray(list(values), dtype=float)
    if np.isfinite(numbers).sum() < 2:
        return list(cells)
    best = np.nanmin(numbers) if lower else np.nanmax(numbers)
    return [f"**{cell}**" if value == best else cell for cell, value in zip(cells, numbers, strict=True)]


def listed(items: Sequence[str], most: int = 12) -> str:
    """Return names joined by commas, the first `most` of them."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")
