"""Write docs/reference/*.md, a page per section of the config, from the schemas; `--check` only compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "src"))

from histoloom.config import KINDS
from histoloom.schemas import SCHEMAS, load_schema

PAGES = ROOT / "docs" / "reference"
NOTE = "<!-- made by `make reference` from workflow/schemas -->"


def type_of(schema: dict[str, Any]) -> str:
    """Say in a few words what a key may hold."""
    for word in ("const", "enum"):
        if word in schema:
            values = schema[word] if word == "enum" else [schema[word]]
            return " \\| ".join(f"`{json.dumps(v) if not isinstance(v, str) else v}`" for v in values)
    for word in ("oneOf", "anyOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(type_of(part) for part in schema[word]))
    kind = schema.get("type", "")
    names = [kind] if isinstance(kind, str) else [str(k) for k in kind]
    names = [f"list of {type_of(schema['items'])}" if n == "array" and "items" in schema else n for n in names if n]
    return " or ".join(names) or "any"


def rows_of(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, description) of every key, nested ones with their path."""
    required = set(schema.get("required", []))
    for key, sub in schema.get("properties", {}).items():
        default = "**required**" if key in required else ""
        nested = "properties" in sub
        if "default" in sub and not (nested and sub["default"] == {}):
            default = f"`{json.dumps(sub['default'], ensure_ascii=False)}`"
        if "x-default-from" in sub:
            default = f"that of `{sub['x-default-from']}`"
        description = " ".join(str(sub.get("description", "")).split()).replace("|", "\\|")
        yield f"`{prefix}{key}`", "mapping" if nested else type_of(sub), default, description
        yield from rows_of(sub, f"{prefix}{key}.")
        items = sub.get("items")
        if isinstance(items, dict):
            yield from rows_of(items, f"{prefix}{key}[].")


def table(name: str) -> str:
    """Return the markdown table of one schema."""
    schema = load_schema(name)
    intro = " ".join(str(schema.get("description", "")).split())
    lines = [intro, ""] if intro else []
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows_of(schema)]
    return "\n".join(lines)


def kinds(prefix: str, heading: str) -> Iterator[str]:
    """Yield heading and table of every schema ``<prefix>.<kind>``."""
    for path in sorted(SCHEMAS.glob(f"{prefix}.*.schema.yaml")):
        name = path.name.removesuffix(".schema.yaml")
        yield f"## {heading}{name.split('.', 1)[1]}`\n\n{table(name)}"


def pages() -> dict[Path, str]:
    """Return the text of every page."""
    parts = {"top_level": ["# Top level", table("config")]}
    for section, (prefix, chooser) in KINDS.items():
        parts[section] = [f"# {section}"]
        if (SCHEMAS / f"{prefix}.schema.yaml").is_file():
            parts[section].append(table(prefix))
        if chooser is not None:
            parts[section] += kinds(prefix, f"`{chooser}: ")
    parts["targets"] = ["# experiments.NAME.target", *kinds("target", "`kind: ")]
    parts["sheets"] = ["# Columns of cohort sheets", *kinds("sheet", "`source: ")]
    parts["files"] = ["# Columns of resources/files/*.tsv", table("files")]
    links = [f"* [{name.replace('_', ' ')}]({name}.md)" for name in parts]
    parts["index"] = ["# Config reference", "Every key with its type, default and meaning.", "\n".join(links)]
    return {PAGES / f"{name}.md": "\n\n".join([NOTE, *part]) + "\n" for name, part in parts.items()}


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them; 1 when `--check` finds a difference."""
    texts = pages()
    if "--check" in arguments:
        written = {path: path.read_text() for path in PAGES.glob("*.md")}
        return int(written != texts)
    for path in PAGES.glob("*.md"):
        path.unlink()
    PAGES.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
