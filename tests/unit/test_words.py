"""The words of the house: those of scanpy, scikit-learn, timm and Snakemake; docs/glossary.md has the list."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "workflow",
    "scripts",
    "config",
    "docs",
    "profiles",
    "envs",
    "Snakefile",
    "Makefile",
    "README.md",
    "CONTRIBUTING.md",
)
# What is banned, and what we say.
WORDS = {
    r"judg(?:e|es|ed|ing|ement)": "check",
    r"ladders?|rungs?": "baseline comparison, level",
    r"(?<![.])floors?(?!\()": "baseline",
    r"plant(?:s|ed|ing)?": "simulated effect, ground truth",
    r"take_embedding|sweeps?": "encoder group, run_encoders",
    r"doors?": "downloader",
    r"meet(?:s|ing|ings)?": "match",
    r"told|theirs": "say what it is",
    r"badges?": "qc_flag",
    r"sisters?": "other section of the same patient",
    r"leak_price|leak price": "leakage effect, paired leakage test",
    r"mend(?:s|ed|ing)?": "fix",
    r"beside": "next to, with",
    r"nobody": "no one, not",
    r"to be had|be had": "available",
    r"takes? offence": "crashes",
    r"eats?": "removes",
}
NAMES = {"found", "told", "mine", "theirs", "about", "marked"}


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.splitlines()]
    return [path for path in paths if path.is_file() and path.name != "constraints.txt"]


def banned(text: str) -> Iterator[tuple[str, str]]:
    for pattern, instead in WORDS.items():
        for match in re.finditer(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", text, re.IGNORECASE):
            yield match[0], instead


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name.strip("_")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def old_names(text: str) -> set[int]:
    """Lines of tables that say which new name an old one has."""
    lines: set[int] = set()
    for node in ast.parse(text).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and re.search("OLD|RENAMED", target.id):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_words(path: Path) -> None:
    lines = path.read_text().splitlines()
    skipped = old_names(path.read_text()) if path.suffix == ".py" else set()
    said = [
        f"{i}: '{word}': {instead}"
        for i, line in enumerate(lines, 1)
        if i not in skipped
        for word, instead in banned(line)
    ]
    assert not said
    if path.suffix == ".py":
        used = NAMES & set(names(ast.parse("\n".join(lines))))
        assert not used, f"name the thing: {', '.join(sorted(used))}"


def test_the_test_sees_words_and_names() -> None:
    assert [word for word, _ in banned("the Judge mends np.floor(x), no floor; leak_price")] == [
        "Judge", "floor", "leak_price", "mends"
    ]  # fmt: skip
    assert set(names(ast.parse("def f(about):\n    found: int = 1\n    for told in found: pass"))) >= {
        "about",
        "found",
        "told",
    }
