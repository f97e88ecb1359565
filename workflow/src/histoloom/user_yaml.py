"""Config files as their author wrote them: what YAML passes over in silence, and what Snakemake calls invalid."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from histoloom.errors import InputError
from histoloom.text_tables import read_text

_MERGE = "tag:yaml.org,2002:merge"


class _Twice(Exception):
    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__(key)
        self.key, self.first, self.second = key, first, second


class _Loader(yaml.CSafeLoader):
    """libyaml's safe loader that refuses a key which stands twice; the last one would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag == _MERGE or not isinstance(key, yaml.ScalarNode):
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in seen:
                raise _Twice(str(name), seen[name], line)
            seen[name] = line
        return super().construct_mapping(node, deep)


def read_user_yaml(path: Path) -> dict[str, Any]:
    """Read a config file, YAML or JSON; nothing in it is run, and every fault names its line."""
    text = read_text(path)
    try:
        # A JSON file may be indented by tabs, which YAML forbids.
        content = json.loads(text, object_pairs_hook=_unique) if path.suffix == ".json" else yaml.load(text, _Loader)
    except _Twice as twice:
        lines = f"in lines {twice.first} and {twice.second}" if twice.first else "twice"
        problem = f"the key '{twice.key}' stands {lines} of one mapping; the last would count."
        raise InputError(path, problem, "remove or rename one of them.", "yaml-key-twice") from None
    except (yaml.YAMLError, ValueError) as error:
        raise _explained(path, text, error) from error
    if not isinstance(content, dict):
        problem = f"holds {type(content).__name__ if content is not None else 'nothing'}, and no keys at its top level."
        raise InputError(path, problem, "write `experiments:` and the other sections.", "yaml-no-keys")
    return content


def refuse_repeated_keys(files: Sequence[str | Path]) -> None:
    """Check config files that Snakemake has read already: it takes the last of two keys."""
    for path in map(Path, files):
        if path.is_file() and path.stat().st_size:
            read_user_yaml(path)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise _Twice(name, 0, 0)
    return dict(pairs)


def _explained(path: Path, text: str, error: Exception) -> InputError:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or str(error)
    where = f"{path}: line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    line = text.split("\n")[mark.line] if mark and mark.line < text.count("\n") + 1 else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return InputError(where, "the line is indented with a tab.", "indent with spaces.", "yaml-tab")
    if isinstance(error, yaml.constructor.ConstructorError) and "tag" in said:
        problem = f"{said}: such a tag asks to make objects or to run code, and is not followed."
        return InputError(where, problem, "write plain text, numbers, lists and mappings.", "yaml-tag")
    return InputError(where, f"is no YAML ({said}).", "fix the line; see config/README.md.", "yaml-syntax")
