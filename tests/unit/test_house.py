"""The rules of the house, read off the files themselves."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from histoloom.schemas import load_schema

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "workflow" / "src" / "histoloom"
# Left to right: a stage imports only from its left. Modules of the first row serve all.
BASE = [
    "errors",
    "bundles",
    "config",
    "schemas",
    "identity",
    "artefacts",
    "obs_keys",
    "text_tables",
    "checkpoints",
    "hub",
    "efficiency",
    "devices",
    "paths",
    "redaction",
    "patients",
    "limits",
    "user_yaml",
    "content",
    "jobs",
    "versions",
    "kinds",
    "kind_entries",
    "torch_compat",
    "stats",
    "lattice",
    "devices",
    "efficiency",
    "slides",
    "genes",
    "job_resources",
]
FLOW = [
    "sources", "samples", "exports", "tiles", "nuclei", "embeddings", "references", "labels", "targets", "folds", "inputs", "cells", "networks", "models", "audit",
    "metrics", "report", "checks", "viewer", "notebook",
]  # fmt: skip
# They know every stage by name; no stage may import them.
ABOVE = ["plan"]


def modules() -> list[tuple[str, Path]]:
    return [(p.relative_to(PACKAGE).parts[0].removesuffix(".py"), p) for p in sorted(PACKAGE.rglob("*.py"))]


def imported_stages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [
                f"{node.module}.{alias.name}" for alias in node.names if node.module == "histoloom"
            ]
        found |= {name.split(".")[1] for name in names if name.startswith("histoloom.")}
    return found


@pytest.mark.parametrize(("stage", "path"), modules(), ids=lambda value: str(value)[-40:])
def test_library_imports_only_from_its_left(stage: str, path: Path) -> None:
    if stage in {"__init__", *ABOVE}:
        return
    order = dict.fromkeys(BASE, 0) | {name: i + 1 for i, name in enumerate(FLOW)}
    assert stage in order, f"{stage} has no place in the flow: add it to BASE or FLOW"
    for other in imported_stages(path) - {stage}:
        assert order.get(other, 99) < order[stage] or (stage in BASE and other in BASE), f"{path} imports {other}"


def module_names() -> dict[str, Path]:
    found = {}
    for _, path in modules():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(("histoloom", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else node.module for name in names}
    return found & set(known)


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_modules_import_each_other_in_no_circle() -> None:
    known = module_names()
    graph = {name: imported_modules(path, known) - {name} for name, path in known.items()}
    assert sum(map(len, graph.values())) > len(graph)  # the reading of imports works
    assert circle_in(graph) == []
    # A file that imports back, inside a function as circles like to hide.
    late = {**graph, "histoloom.samples.tables": {"histoloom.samples.hest"}}
    assert set(circle_in(late)) >= {"histoloom.samples.tables", "histoloom.samples.hest"}


def test_library_and_simulation_are_apart() -> None:
    """The library knows nothing of the simulation, which uses the library's errors and nothing else."""
    imports = re.compile(r"^\s*(from|import) histoloom_simulation", re.MULTILINE)
    assert not [str(path) for _, path in modules() if imports.search(path.read_text())]
    for path in PACKAGE.with_name("histoloom_simulation").glob("*.py"):
        assert imported_stages(path) <= {"errors"}, path


def test_library_never_mentions_snakemake() -> None:
    guilty = [
        str(path) for _, path in modules() if re.search(r"\bimport snakemake\b|\bsnakemake\.\w", path.read_text())
    ]
    assert not guilty


def test_registries_name_things_that_exist() -> None:
    code = (
        "from histoloom.kinds import SECTIONS, load\n"
        "for section in set(SECTIONS) - {'checks'}:\n"
        "    for kind in SECTIONS[section]: load(section, kind)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)})


def test_what_the_snakefile_imports_is_light() -> None:
    code = (
        "import sys; import histoloom.plan, histoloom.samples.her2st, histoloom.samples.files, histoloom.samples.slides\n"
        "print([m for m in ('torch','anndata','scanpy','scipy','skimage','openslide','matplotlib','h5py') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert out.stdout.strip() == "[]"


RULE = re.compile(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", re.M | re.S)


def rules() -> list[tuple[str, str, Path]]:
    found = []
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        found += [(name, body, path) for name, body in RULE.findall(path.read_text())]
    return found


@pytest.mark.parametrize(("name", "body", "path"), rules(), ids=lambda value: str(value)[:30])
def test_every_rule_carries_what_a_rule_must(name: str, body: str, path: Path) -> None:
    for word in ("output:", "log:", "benchmark:", "conda:", "threads:", "script:"):
        assert word in body, f"{path.name}: rule {name} lacks {word}"
    # Both, or neither: then the profile's defaults serve.
    assert ("mem_mb=" in body) == ("runtime=" in body), f"{path.name}: rule {name}"
    (stem,) = re.findall(r"../../scripts/(\w+)\.py", body)
    script = ROOT / "scripts" / f"{stem}.py"
    assert script.is_file(), f"{script} is missing"
    assert len(script.read_text().splitlines()) <= 50
    assert "def main(snakemake)" in script.read_text()


def test_rule_files_open_with_reads_and_writes_and_hold_no_functions() -> None:
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        text = path.read_text()
        if path.name == "common.smk":
            assert len(text.splitlines()) <= 150
            continue
        assert text.startswith("# READS"), path
        assert "# WRITES" in text, path
        assert not re.search(r"^\s*def |lambda", text, re.M), path


def test_the_entry_point_is_short() -> None:
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 66


def test_no_file_is_a_god_file() -> None:
    long = [str(p) for _, p in modules() if len(p.read_text().splitlines()) > 400]
    assert not long


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\s*(?:- )?([A-Za-z0-9_.-]+)==(\S+)", text, re.M))


def test_conda_files_hold_every_pin_and_are_up_to_date() -> None:
    wanted = {
        k: v for f in ("", "-spatialdata") for k, v in pins((ROOT / f"envs/requirements{f}.txt").read_text()).items()
    }
    every = pins((ROOT / "envs" / "constraints.txt").read_text())
    assert {name.lower(): every.get(name) for name in wanted} == {name.lower(): v for name, v in wanted.items()}
    used = set(re.findall(r"envs/(\w+)\.yaml", "".join(body for _, body, _ in rules())))
    files = sorted((ROOT / "envs").glob("*.yaml"))
    assert {path.stem for path in files} == used
    for path in files:
        env = yaml.safe_load(path.read_text())
        assert "nodefaults" in env["channels"]
        (block,) = [d["pip"] for d in env["dependencies"] if isinstance(d, dict)]
        names = [line.partition("==")[0] for line in block]
        assert len(names) == len(set(names))
        for line in block:
            name, _, version = line.partition("==")
            assert every.get(name) == version, f"{path.name}: {line}"
    # What torch pulls in on every platform is there although no rule names it.
    assert {"sympy", "networkx"} <= pins((ROOT / "envs" / "models.yaml").read_text()).keys()
    script = ROOT / "scripts" / "tools" / "write_conda_envs.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0, "run `make envs`"


def test_every_package_that_is_imported_is_pinned_by_name() -> None:
    """What comes with another package is gone when that one is: `make demo` on a fresh machine would end there."""
    pinned = {
        name.lower().replace("_", "-")
        for f in ("", "-spatialdata")
        for name in pins((ROOT / f"envs/requirements{f}.txt").read_text())
    }
    provided = packages_distributions()
    # numba is only told its threads where another package has loaded it.
    own = {"histoloom", "histoloom_simulation", "histoloom_operations", "snakemake_executor_plugin_slurm", "numba"}
    unpinned = set()
    for path in [*(ROOT / "workflow/src").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for package in {name.partition(".")[0] for name in names} - own - set(sys.stdlib_module_names):
                known = {name.lower().replace("_", "-") for name in provided.get(package, [package])}
                unpinned |= set() if known & pinned else {f"{path.name}: {package}"}
    assert not unpinned


def test_config_reference_is_up_to_date() -> None:
    script = ROOT / "scripts" / "tools" / "write_config_reference.py"
    result = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert result.returncode == 0, "run `make reference`"


def test_every_schema_is_closed_and_explains_its_keys() -> None:
    def walk(schema: dict, where: str) -> None:
        if "properties" in schema:
            # A target's other keys are those of its kind, in a schema of their own.
            assert schema.get("additionalProperties") is False or where.endswith(".target"), where
            parts = (schema, *schema.get("oneOf", []), schema.get("then", {}))
            required = {key for part in parts for key in part.get("required", [])}
            for key, sub in schema["properties"].items():
                assert sub.get("description"), f"{where}.{key} has no description"
                # A default may come from the model's named settings, which its class holds.
                has_default = "default" in sub or sub.get("x-default-from") in schema["properties"]
                assert key in required or has_default or where.endswith(".target"), (
                    f"{where}.{key}: neither required nor default"
                )
                walk(sub, f"{where}.{key}")

    for path in sorted((ROOT / "workflow" / "schemas").glob("*.schema.yaml")):
        if path.name.startswith(("sheet.", "config.", "published.")):
            continue
        walk(load_schema(path.name.removesuffix(".schema.yaml")), path.name)


def test_every_key_of_an_experiment_says_what_it_affects() -> None:
    """A key that affects nothing would leave a stale artefact behind."""
    parts = {"target", "folds", "audit", "training", "fit", "scoring", "applying", "report"}
    for path in (ROOT / "workflow" / "schemas").glob("experiment.*.schema.yaml"):
        for key, sub in load_schema(path.name.removesuffix(".schema.yaml"))["properties"].items():
            assert sub["x-affects"] or key in {"task", "title", "models"}, f"{path.name}: {key}"
            assert set(sub["x-affects"]) <= parts, f"{path.name}: {key}"
            # What changes a fit must reach the training job.
            assert "fit" not in sub["x-affects"] or "training" in sub["x-affects"], f"{path.name}: {key}"


def test_tests_match_the_code_of_an_error_and_not_its_sentence() -> None:
    alone = re.compile(r"raises\(\s*InputError,\s*match=")
    assert not [path.name for path in sorted((ROOT / "tests").rglob("*.py")) if alone.search(path.read_text())]
