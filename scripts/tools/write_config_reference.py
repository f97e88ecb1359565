"""Write the reference part of config/README.md from the schemas; `--check` only compares.

Everything between the two marker lines is generated; the prose around it is not touched.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "src"))

from histoloom.config import KINDS, SCHEMAS, load_schema

README = ROOT / "config" / "README.md"
BEGIN, END = "<!-- reference: begin (made by `make docs`) -->", "<!-- reference: end -->"


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
        description = " ".join(str(sub.get("description", "")).split()).replace("|", "\\|")
        yield f"`{prefix}{key}`", "mapping" if nested else type_of(sub), default, description
        yield from rows_of(sub, f"{prefix}{key}.")
        items = sub.get("items")
        if isinstance(items, dict):
            yield from rows_of(items, f"{prefix}{key}[].")


def table(name: str) -> str:
    """Return the markdown table of one schema."""
    schema = load_schema(name)
    about = " ".join(str(schema.get("description", "")).split())
    lines = [about, ""] if about else []
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows_of(schema)]
    return "\n".join(lines)


def reference() -> str:
    """Return the whole generated part."""
    parts = ["### Top level\n\n" + table("config")]
    for section, (prefix, chooser) in KINDS.items():
        if (SCHEMAS / f"{prefix}.schema.yaml").is_file():
            parts.append(f"### {section}\n\n{table(prefix)}")
        if chooser is None:
            continue
        for path in sorted(SCHEMAS.glob(f"{prefix}.*.schema.yaml")):
            name = path.name.removesuffix(".schema.yaml")
            parts.append(f"### {section}, `{chooser}: {name.split('.', 1)[1]}`\n\n{table(name)}")
    for path in sorted(SCHEMAS.glob("sheet.*.schema.yaml")):
        name = path.name.removesuffix(".schema.yaml")
        parts.append(f"### Columns of a sheet, `source: {name.split('.', 1)[1]}`\n\n{table(name)}")
    return "\n\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the reference, or compare it; 1 when `--check` finds a difference."""
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    new = f"{head}{BEGIN}\n\n{reference()}\n\n{END}{tail}"
    if "--check" in arguments:
        return int(new != text)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
