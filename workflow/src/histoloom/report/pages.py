"""Tables as csv, markdown and html, byte for byte the same for the same numbers."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5em;color:#222;max-width:120em}
table{border-collapse:collapse;margin:.6em 0 1.2em}
th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap;vertical-align:top}
th{border-bottom:2px solid #888}td.text,th.text{text-align:left}td.wrap{white-space:normal;max-width:32em}
p{max-width:60em}
"""
_WRAP_FROM = 48


@dataclass
class Page:
    """Paragraphs and tables in reading order, for markdown and html.

    Parameters
    ----------
    title
        The page's heading.
    """

    title: str
    parts: list[tuple[str, str | pd.DataFrame]] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Add a heading."""
        self.parts.append(("heading", text))

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(("text", text))

    def table(self, frame: pd.DataFrame) -> None:
        """Add a table whose cells are text already."""
        self.parts.append(("table", frame))

    def markdown(self) -> str:
        """Return the page as markdown."""
        lines = [f"# {self.title}"]
        for kind, value in self.parts:
            if isinstance(value, pd.DataFrame):
                lines.append(_markdown_table(value))
            else:
                lines.append(f"## {value}" if kind == "heading" else value)
        return "\n\n".join(lines) + "\n"

    def html(self) -> str:
        """Return the page as one self-contained html file."""
        title = html.escape(self.title)
        lines = [f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"]
        for kind, value in self.parts:
            if isinstance(value, pd.DataFrame):
                lines.append(_html_table(value))
            else:
                tag = "h2" if kind == "heading" else "p"
                lines.append(f"<{tag}>{html.escape(value)}</{tag}>")
        return "\n".join(lines) + "\n"


def _is_number(text: str) -> bool:
    try:
        float(text.strip(" %").split(" ")[0])
    except ValueError:
        return False
    return True


def _text_columns(frame: pd.DataFrame) -> list[bool]:
    """Say which columns hold words: those are left-aligned."""
    return [not any(_is_number(cell) for cell in frame[c] if cell) for c in frame.columns]


def _markdown_table(frame: pd.DataFrame) -> str:
    text = _text_columns(frame)
    rows = [[str(c) for c in frame.columns], [":---" if t else "---:" for t in text]]
    rows += [[str(cell).replace("|", "\\|") for cell in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _html_table(frame: pd.DataFrame) -> str:
    text = _text_columns(frame)

    def cell(tag: str, value: str, words: bool) -> str:
        names = (["text"] if words else []) + (["wrap"] if len(value) > _WRAP_FROM else [])
        attribute = f' class="{" ".join(names)}"' if names else ""
        return f"<{tag}{attribute}>{html.escape(value)}</{tag}>"

    head = "".join(cell("th", str(c), t) for c, t in zip(frame.columns, text, strict=True))
    body = "\n".join(
        "<tr>" + "".join(cell("td", str(v), t) for v, t in zip(row, text, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a csv: six decimals, an empty cell for what is undefined, unix line ends."""
    frame.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


def number(value: Any, digits: int = 3) -> str:
    """Return a number for people; an en dash where it is undefined."""
    if value is None or value != value:
        return "–"
    text = f"{value:.{digits}f}"
    return text[1:] if float(text) == 0 and text.startswith("-") else text


def listed(items: Sequence[str], most: int = 12) -> str:
    """Return names joined by commas, the first `most` of them."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")
