"""Change the science code in small ways, one at a time, and count how many changes the unit tests notice.

``make mutants`` (MINUTES=15 SEED=0). Each change is made in a copy of the tracked files; the unit tests that name the changed
module run on it. Noticed means that a test fails which passes without the change. A time limit, a command that could not
run or a test that always fails says nothing: such changes are printed and not counted. Changes that nothing noticed are
printed with their lines: some are equivalent, the others lack a test.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = Path("workflow/src/histoloom")
ROOMS = ("folds", "inputs", "labels", "metrics", "models", "targets", "tiles")
NOTICED, MISSED, UNKNOWN = "noticed", "NOT", "unknown"
MOST_FILES, TEST_S = 8, 240
SWAPS: dict[type[ast.AST], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.And: "or", ast.Or: "and",
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "mean": "median", "std": "var"}
SILENT = frozenset({"InputError", "info", "warning", "debug", "format", "TypeVar", "cast"})
"""Calls whose arguments are words for people or for mypy."""


@dataclass(frozen=True)
class Change:
    """One small change: `old` at (`line`, `column`) of a file becomes `new`."""

    path: Path
    line: int
    column: int
    old: str
    new: str

    def apply(self, root: Path) -> None:
        lines = (root / self.path).read_text().splitlines(keepends=True)
        text = lines[self.line - 1]
        lines[self.line - 1] = text[: self.column] + text[self.column :].replace(self.old, self.new, 1)
        (root / self.path).write_text("".join(lines))

    def __str__(self) -> str:
        text = (ROOT / self.path).read_text().splitlines()[self.line - 1].strip()
        return f"{self.path.relative_to(LIBRARY)}:{self.line}  {self.old} -> {self.new}   {text[:90]}"


def changes(path: Path) -> Iterator[Change]:
    """Yield every change of a file that the rules above know."""
    source = (ROOT / path).read_text()
    lines, stack = source.splitlines(), [ast.parse(source)]
    while stack:
        node: ast.AST = stack.pop()
        if isinstance(node, ast.Raise | ast.AnnAssign | ast.arg) or _is_silent(node):
            stack += [node.value] if isinstance(node, ast.AnnAssign) and node.value else []
            continue
        below = [n for n in ast.iter_child_nodes(node) if n not in getattr(node, "decorator_list", ())]
        stack += [n for n in below if not (isinstance(n, ast.Expr) and _is_text(n.value))]
        if isinstance(node, ast.BinOp | ast.Compare | ast.BoolOp):
            left, operators = _operators(node)
            for before, operator, after in zip(left[:-1], operators, left[1:], strict=True):
                if type(operator) in SWAPS and before.end_lineno == after.lineno and not _is_text(before):
                    between = lines[after.lineno - 1].encode()[before.end_col_offset : after.col_offset].decode()
                    old = between.strip(" ()")
                    if old in {*SWAPS.values()}:
                        yield Change(path, after.lineno, before.end_col_offset or 0, old, SWAPS[type(operator)])
        elif isinstance(node, ast.Constant) and type(node.value) in {int, float, bool}:
            new = str(not node.value) if isinstance(node.value, bool) else f"({node.value} + 1)"
            yield Change(
                path, node.lineno, node.col_offset, lines[node.lineno - 1][node.col_offset : node.end_col_offset], new
            )
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield Change(path, node.lineno, node.col_offset, "not ", "")
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in NAMES and node.func.end_col_offset:
                yield Change(path, node.func.end_lineno or 0, node.func.end_col_offset - len(name), name, NAMES[name])


def _operators(node: ast.BinOp | ast.Compare | ast.BoolOp) -> tuple[list[ast.expr], list[ast.AST]]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right], [node.op]
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators], [*node.ops]
    return node.values, [node.op] * (len(node.values) - 1)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_silent(node: ast.AST) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    return getattr(called, "attr", getattr(called, "id", "")) in SILENT or isinstance(node, ast.JoinedStr)


def tests_of(path: Path, root: Path) -> list[str]:
    """Return the unit tests that name a module, those that share most of its name first."""
    module = ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts)
    stem, room = path.stem, path.parent.name
    wanted = (module, f"from {module.rpartition('.')[0]} import", f"{room}.{stem}")
    files = {p: p.read_text() for p in (root / "tests" / "unit").glob("test_*.py")}
    found = [p for p, text in files.items() if any(word in text for word in wanted) or stem in p.stem or room in p.stem]
    found.sort(key=lambda p: (stem not in p.stem, module not in files[p], room not in p.stem, p.name))
    return [str(p.relative_to(root)) for p in found[:MOST_FILES]]


def outcome(change: Change, copy: Path) -> tuple[str, str]:
    """Return whether the tests noticed a change, and which one did or why that is not known."""
    files = tests_of(change.path, copy)
    original = (copy / change.path).read_text()
    change.apply(copy)
    try:
        ast.parse((copy / change.path).read_text())
        code, failed = _run_tests(files, copy)
    except subprocess.TimeoutExpired:
        return UNKNOWN, "time limit"
    finally:
        (copy / change.path).write_text(original)
    if code == 0:
        return MISSED, ""
    # 1: a test failed; 2: a module could not be imported. All else is about the command.
    if code not in {1, 2} or not failed:
        return UNKNOWN, f"pytest ended with {code}"
    try:
        always = _run_tests([failed], copy)[0] != 0
    except subprocess.TimeoutExpired:
        always = True
    return (UNKNOWN, f"{failed} fails without the change") if always else (NOTICED, failed)


def _run_tests(wanted: list[str], copy: Path) -> tuple[int, str]:
    """Return pytest's exit status and the first test or file that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *wanted]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=TEST_S, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return done.returncode, told[0].split(" - ")[0].split(" ", 1)[1] if told else ""


def main() -> None:
    """Try changes in random order until the time is over, and print the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS))
    options = parser.parse_args()
    paths = [p.relative_to(ROOT) for room in options.rooms for p in sorted((ROOT / LIBRARY / room).rglob("*.py"))]
    rng, queues = random.Random(options.seed), []
    for path in paths:
        found = sorted(set(changes(path)), key=lambda c: (c.line, c.column))
        rng.shuffle(found)
        queues.append(found)
    rng.shuffle(queues)
    # One of each file in turn: a long file is not looked at more than a short one.
    order = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    end, results = time.monotonic() + 60 * options.minutes, []

    def work(part: list[Change]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in tracked:
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / name)
            for change in part:
                if time.monotonic() > end:
                    return
                verdict, told = outcome(change, Path(folder))
                results.append(verdict)
                print(f"{verdict:8} {change}   {told}", flush=True)

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(work, [order[i :: options.processes] for i in range(options.processes)]))
    noticed, counted = results.count(NOTICED), len(results) - results.count(UNKNOWN)
    share = f"{noticed / counted:.0%}" if counted else "no share"
    print(
        f"{noticed} of {counted} changes noticed ({share}), {len(results) - counted} not counted; {len(order)} are possible"
    )


if __name__ == "__main__":
    main()
