"""Version and code of every stage: params of rules and identities of artefacts read the same entry.

Results of a stage change when its version is raised by hand. Jobs of cheap stages also run again when their code
changes, or code that they import; costly stages name no modules, so that a comment burns no GPU hours. The version of a
model is its kind's (`histoloom.kind_entries.ModelKind.version`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from histoloom.errors import InputError

SRC = Path(__file__).resolve().parents[1]
# What these do shows in params and inputs: a new kind must not make every section be read again.
_UNTRACKED = frozenset(
    f"histoloom.{name}" for name in ("config", "errors", "jobs", "kinds", "kind_entries", "schemas", "versions")
)
_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+([\w.]+))", re.M)


@dataclass(frozen=True)
class Stage:
    """A stage of the workflow."""

    name: str  # the part of an identity's stage before its first dot
    version: int = 1  # raised by hand when results change
    modules: tuple[str, ...] = ()  # whose code, with all that they import, decides when jobs of a cheap stage run again


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("simulation", modules=("histoloom_simulation",)),
        Stage("samples", modules=("histoloom.samples",)),
        Stage("polygons", modules=("histoloom.samples.polygons",)),
        Stage("exports", modules=("histoloom.exports",)),
        Stage("cell_exports", modules=("histoloom.cells.export",)),
        Stage("bundles"),
        Stage("tiles", modules=("histoloom.tiles",)),
        Stage("nuclei", version=2, modules=("histoloom.nuclei",)),
        Stage("embeddings"),
        Stage("references"),
        Stage("labels", version=2),
        Stage("cell_labels"),
        Stage("thinning", modules=("histoloom.labels.thinning",)),
        Stage("targets", modules=("histoloom.targets",)),
        Stage("folds", version=2, modules=("histoloom.folds",)),
        Stage("audit", modules=("histoloom.audit", "histoloom.report.audit_figure")),
        Stage("panel", modules=("histoloom.folds.panel",)),
        Stage("pixels"),
        Stage("efficiency", modules=("histoloom.efficiency",)),
        Stage("predictions"),
        Stage("representations"),
        Stage("clusters"),
        Stage("training_range"),
        Stage("apply", version=2),
        Stage("metrics", version=3, modules=("histoloom.metrics",)),
        Stage("checks", modules=("histoloom.checks", "histoloom.metrics")),
        Stage("report", modules=("histoloom.report",)),
        Stage("viewer", modules=("histoloom.viewer",)),
    )
}


def stage(name: str) -> Stage:
    """Return a stage by its name, or by that of a step of it (``labels.gather``)."""
    root = name.partition(".")[0]
    if root not in STAGES:
        raise InputError(name, f"no such stage; known: {', '.join(STAGES)}.", "add it to versions.py.", "unknown-stage")
    return STAGES[root]


@cache
def module_files() -> dict[str, Path]:
    """Return the files of all modules of the library by dotted name."""
    files = {}
    for path in sorted(SRC.glob("histoloom*/**/*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


@cache
def imports_of(module: str) -> frozenset[str]:
    """Return the modules of the library that a module imports, inside functions and for types too."""
    known, names = module_files(), set[str]()
    for package, imported, plain in _IMPORT.findall(known[module].read_text()):
        if plain:
            names.add(plain)
            continue
        attributes = (part.split()[0] for part in imported.strip("()\n ").split(",") if part.strip())
        names |= {f"{package}.{name}" if f"{package}.{name}" in known else package for name in attributes}
    return frozenset(names & known.keys())


def closure(modules: Iterator[str] | tuple[str, ...]) -> list[str]:
    """Return modules and packages with all that they import, sorted."""
    known = module_files()
    todo = [name for root in modules for name in known if name == root or name.startswith(f"{root}.")]
    seen = set[str]()
    while todo:
        name = todo.pop()
        if name not in seen and name not in _UNTRACKED:
            seen.add(name)
            todo += imports_of(name)
    return sorted(seen)


def version_of(name: str) -> int:
    """Return the version of a costly stage, for the params of its rules."""
    return stage(name).version


@cache
def code_of(name: str) -> str:
    """Return version and code of a cheap stage as a hash of 16 hex digits, for the params of its rules."""
    entry = stage(name)
    if not entry.modules:
        raise InputError(name, "is a costly stage: its code is not tracked.", "use version_of.", "stage-without-code")
    digest = hashlib.sha256(f"{entry.name} {entry.version}".encode())
    for module in closure(entry.modules):
        digest.update(module_files()[module].read_bytes())
    return digest.hexdigest()[:16]
