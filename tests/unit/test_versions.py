"""One truth for versions and code: what params carry and what identities carry cannot differ."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from error_codes import has_code
from histoloom import kinds, versions
from histoloom.errors import InputError
from histoloom.identity import make_identity

ROOT = Path(__file__).resolve().parents[2]


def raised(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    stage = versions.STAGES[name]
    monkeypatch.setitem(versions.STAGES, name, replace(stage, version=stage.version + 1))  # type: ignore[arg-type]
    versions.code_of.cache_clear()


@pytest.mark.parametrize("name", list(versions.STAGES))
def test_a_raised_version_changes_identity_and_params(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def params() -> object:
        return versions.code_of(name) if versions.STAGES[name].modules else versions.version_of(name)

    before = params(), make_identity(name, {}, {})["sha256"], make_identity(f"{name}.step", {}, {})["sha256"]
    raised(monkeypatch, name)
    after = params(), make_identity(name, {}, {})["sha256"], make_identity(f"{name}.step", {}, {})["sha256"]
    versions.code_of.cache_clear()
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_the_version_of_a_model_is_its_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    from test_config import demo, load

    plan = load(demo())
    before = plan.models.kind("ridge").version
    monkeypatch.setitem(kinds.MODELS, "ridge", replace(kinds.MODELS["ridge"], version=before + 1))
    assert plan.models.kind("ridge").version == before + 1


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the library whose files may be edited."""
    shutil.copytree(versions.SRC, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def codes(src: Path) -> dict[str, str]:
    code = (
        "from histoloom.versions import STAGES, code_of\n"
        "print(*(f'{n}={code_of(n)}' for n in STAGES if STAGES[n].modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONPATH": str(src)}
    )
    return dict(pair.split("=") for pair in out.stdout.split())


@pytest.mark.parametrize(
    ("edited", "changed", "unchanged"),
    [
        ("slides/files.py", {"samples", "tiles", "nuclei"}, {"folds", "metrics", "thinning"}),
        ("folds/roles.py", {"folds", "metrics", "report"}, {"samples", "tiles"}),
        ("labels/thinning.py", {"thinning"}, {"samples", "folds"}),
        ("kinds.py", set(), {"samples", "folds", "metrics", "report"}),
    ],
)
def test_code_follows_imports(copied: Path, edited: str, changed: set[str], unchanged: set[str]) -> None:
    before = codes(copied)
    path = copied / "histoloom" / edited
    path.write_text(path.read_text() + "\n# edited\n")
    after = codes(copied)
    assert {name for name in changed if before[name] == after[name]} == set()
    assert {name for name in unchanged if before[name] != after[name]} == set()


def test_imports_are_those_that_python_sees() -> None:
    from test_house import imported_modules, module_names

    known = module_names()
    assert {n: imported_modules(p, known) for n, p in known.items()} == {n: set(versions.imports_of(n)) for n in known}


def test_a_typo_is_refused() -> None:
    for ask in (versions.code_of, versions.version_of):
        with pytest.raises(InputError, check=has_code("unknown-stage")):
            ask("tile")
    with pytest.raises(InputError, check=has_code("unknown-stage")):
        make_identity("tile", {}, {})
    with pytest.raises(InputError, check=has_code("stage-without-code")):
        versions.code_of("labels")


def test_every_rule_that_computes_tracks_version_or_code() -> None:
    from test_house import rules

    untracked = [name for name, body, _ in rules() if not any(word in body for word in ("code=", "version="))]
    assert untracked == ["fetch_file"]
