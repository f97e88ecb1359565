"""The config: closed, named, with defaults, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from error_codes import has_code
from histoloom.config import OLD_KEYS, load_config
from histoloom.errors import InputError
from histoloom.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "config" / "config.yaml"


def demo() -> dict[str, Any]:
    return yaml.safe_load(DEMO.read_text())


def load(raw: dict[str, Any], *files: Path) -> Plan:
    return Plan(load_config(raw, files or (DEMO,)))


def write_sheet(path: Path, rows: list[dict[str, str]]) -> Path:
    columns = list(rows[0])
    path.write_text("\n".join("\t".join(r) for r in [columns, *[[row[c] for c in columns] for row in rows]]) + "\n")
    return path


def row(sample: str, patient: str = "P1", **more: str) -> dict[str, str]:
    base = {"sample": sample, "patient": patient, "mpp": "0.5", "pitch_um": "100", "spot_diameter_um": "55"}
    files = {"counts": "c.tsv", "positions": "p.tsv", "image": "i.png"}
    return {**base, "exclude": "", "qc_flag": "", **files, **more}


def own(tmp_path: Path, rows: list[dict[str, str]], **cohort: Any) -> Plan:
    write_sheet(tmp_path / "mine.tsv", rows)
    raw = {"cohorts": {"mine": {"source": "files", "sheet": "mine.tsv", **cohort}}, "experiments": {}}
    return load(raw, tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", [p.name for p in sorted((ROOT / "config").glob("*.yaml"))])
def test_shipped_configs_are_valid(name: str) -> None:
    path = ROOT / "config" / name
    plan = load(yaml.safe_load(path.read_text()), path)
    assert plan.report.targets()


def test_batches_of_a_cohort_are_cut_once_however_many_jobs_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, counted = load(demo()), []
    monkeypatch.setattr(
        plan.sections, "samples", lambda cohort, ask=plan.sections.samples: counted.append(1) or ask(cohort)
    )
    for batch in plan.embeddings.batches("texture", "demo"):
        plan.embeddings.batch_files("texture", "demo", batch)
    assert len(counted) <= 1


def test_defaults_are_filled_in_and_do_not_leak_between_entries() -> None:
    plan = load(demo())
    first = plan.config.get("experiments", "demo")
    assert first["standardise"] == "train"
    assert first["on_overlap"] == "fail"
    first["moran"]["cutoff"] = -1
    assert load(demo()).config.get("experiments", "demo")["moran"]["cutoff"] == 0.2


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("experiments", "demo", "splitt"), "x", ["experiments.demo", "'splitt'", "Did you mean 'split'"]),
        (("tiles", "um112", "sizepx"), 3, ["tiles.um112", "Did you mean 'size_px'"]),
        (("cohortss",), {}, ["'cohortss'", "Did you mean 'cohorts'"]),
        (("experiments", "demo", "split"), "leave_one_out", ["experiments.demo.split", "leave_one_patient_out"]),
        (("experiments", "demo", "cohorts"), ["dem"], ["experiments.demo.cohorts", "Did you mean 'demo'"]),
        (("experiments", "demo", "models"), ["mpl"], ["experiments.demo.models", "Did you mean 'mlp'"]),
        (("models", "mlp", "kind"), "mpl", ["models.mlp.kind", "Did you mean 'mlp'"]),
        (("labels", "c2l", "reference"), "simm", ["labels.c2l.reference", "Did you mean 'sim'"]),
        (("cohorts", "demo", "source"), "visiumm", ["cohorts.demo.source", "known:"]),
        (("cohorts", "demo", "samples"), ["W9"], ["cohorts.demo.samples", "'W9' is not in the sheet"]),
        (("cohorts", "demo", "sheet"), "no.tsv", ["no.tsv", "does not exist"]),
        (("encoders", "texture", "card"), "unni", ["encoders.texture.card", "stain_texture"]),
        (("tiles",), {"um112": 3}, ["tiles.um112", "expected a mapping"]),
        (("experiments", "a b"), {}, ["a b"]),
    ],
)
def test_a_wrong_key_or_name_is_named_with_its_remedy(path: tuple[str, ...], value: Any, says: list[str]) -> None:
    raw = demo()
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError) as caught:
        plan = load(raw)
        plan.report.targets()
        plan.embeddings.spec("texture")
    for text in [*says, "Remedy:"]:
        assert text in str(caught.value)


def test_encoder_on_other_tiles_than_the_experiment_is_an_error() -> None:
    raw = demo()
    raw["tiles"]["native"] = {"size_px": 224, "um_per_px": "native"}
    raw["encoders"]["texture"]["tiles"] = "native"
    with pytest.raises(InputError, check=has_code("experiment-tiles")):
        load(raw)


def test_a_model_of_another_target_and_a_variant_it_does_not_know_are_named() -> None:
    raw = demo()
    raw["models"]["classes"] = {"kind": "majority_class"}
    raw["experiments"]["demo"]["models"] = ["classes"]
    with pytest.raises(InputError, check=has_code("model-target"), match=r"experiments\.demo\.models.*'classes'"):
        load(raw)
    raw = demo()
    raw["models"]["stnet"]["variants"] = {"x": {"k": 3}}
    with pytest.raises(InputError, check=has_code("schema-unknown-key"), match=r"models\.stnet\.variants\.x.*'k'"):
        load(raw)


def test_duplicate_sample_and_empty_patient_name_the_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("sheet-twice"), match=r"row 3 \(sample 'S1'\).*row 2"):
        own(tmp_path, [row("S1"), row("S1")])
    with pytest.raises(InputError, check=has_code("sheet-patient"), match=r"row 3 \(sample 'S2'\)"):
        own(tmp_path, [row("S1"), row("S2", patient=" ")])


@pytest.mark.parametrize(
    "cells",
    [
        {"mpp": "0"}, {"mpp": "1e400"}, {"mpp": "353"}, {"pitch_um": "0"}, {"spot_diameter_um": "10000000"},
        {"pitch_um": "55", "spot_diameter_um": "100"},
    ],
)  # fmt: skip
def test_lengths_that_no_slide_or_array_has_are_refused_before_anything_is_read(
    tmp_path: Path, cells: dict[str, str]
) -> None:
    assert own(tmp_path, [row("S1", pitch_um="2", spot_diameter_um="2", mpp="0.25")])
    with pytest.raises(InputError, check=has_code("sheet-measure"), match=r"row 2 \(sample 'S1'\)"):
        own(tmp_path, [row("S1", **cells)])


def test_unknown_column_is_an_error_but_own_columns_are_not(tmp_path: Path) -> None:
    assert own(tmp_path, [row("S1", x_note="hello")]).sections.samples("mine") == ["S1"]
    with pytest.raises(InputError, check=has_code("sheet-column"), match=r"'pitch'.*'pitch_um'"):
        own(tmp_path, [row("S1", pitch="100")])


def test_excluded_sections_take_no_part_and_are_listed(tmp_path: Path) -> None:
    plan = own(tmp_path, [row("S1"), row("S2", exclude="torn")])
    assert plan.sections.samples("mine") == ["S1"]
    assert plan.sections.excluded() == [{"cohort": "mine", "sample": "S2", "patient": "P1", "reason": "torn"}]
    with pytest.raises(InputError, check=has_code("cohort-empty")):
        own(tmp_path, [row("S1", exclude="torn")]).sections.samples("mine")


def test_sheet_paths_are_relative_to_the_sheet_or_to_root(tmp_path: Path) -> None:
    assert own(tmp_path, [row("S1")]).sections.slide("mine", "S1") == str(tmp_path / "i.png")
    assert own(tmp_path, [row("S1")], root="/data").sections.slide("mine", "S1") == "/data/i.png"


def test_mirror_in_root_needs_a_mirror(tmp_path: Path) -> None:
    write_sheet(tmp_path / "mine.tsv", [row("S1")])
    raw: dict[str, Any] = {
        "cohorts": {"mine": {"source": "files", "sheet": "mine.tsv", "root": "{mirror_dir}/x"}},
        "experiments": {},
    }
    with pytest.raises(InputError, check=has_code("config-mirror")):
        load(raw, tmp_path / "c.yaml")
    assert load({**raw, "mirror_dir": "/m"}, tmp_path / "c.yaml").sections.slide("mine", "S1") == "/m/x/i.png"


def test_a_path_anywhere_needs_the_mirror_that_it_names(tmp_path: Path) -> None:
    write_sheet(tmp_path / "mine.tsv", [row("S1")])
    part = {"folder": "{mirror_dir}/c", "annotation": "{raw_dir}/a.txt"}
    raw: dict[str, Any] = {
        "cohorts": {"mine": {"source": "files", "sheet": "mine.tsv"}},
        "references": {
            "cells": {"source": "mtx", "samples": [part]},
            "one": {"source": "h5ad", "path": part["folder"]},
        },
        "experiments": {},
    }
    plan = load({**raw, "mirror_dir": "/m", "raw_dir": "/r"}, tmp_path / "c.yaml")
    assert plan.labels.reference_files("cells") == {"folders": ["/m/c"], "annotations": ["/r/a.txt"]}
    for reference in ("cells", "one"):
        with pytest.raises(InputError, check=has_code("config-mirror")):
            load(raw, tmp_path / "c.yaml").labels.reference_files(reference)


def test_batches_are_shared_between_a_subset_and_the_full_run() -> None:
    raw = demo()
    raw["encoders"]["texture"]["sections_per_batch"] = 2
    full = load(raw).embeddings.batches("texture", "demo")
    raw["cohorts"]["demo"]["samples"] = full[list(full)[1]]
    assert load(raw).embeddings.batches("texture", "demo").items() <= full.items()
    assert sorted(s for members in full.values() for s in members) == sorted(load(demo()).sections.samples("demo"))


def test_what_does_not_change_a_section_is_not_in_its_spec() -> None:
    raw = demo()
    before = load(raw).sections.spec("demo")
    raw["cohorts"]["demo"]["samples"] = ["W1"]
    assert load(raw).sections.spec("demo") == before


def test_title_and_models_do_not_change_what_training_depends_on() -> None:
    raw = demo()
    parts = ("target", "folds", "training", "scoring")
    before = [load(raw).experiments.spec("demo", part) for part in parts]
    raw["experiments"]["demo"].update(title="other", models=["ridge", "mlp"])
    assert [load(raw).experiments.spec("demo", part) for part in parts] == before


def test_cells_by_counted_nuclei_read_the_nuclei_of_sections_with_slides() -> None:
    raw = demo()
    raw["labels"]["c2l"]["n_cells_per_location"] = "nuclei"
    plan = load(raw)
    group, members = next(iter(plan.labels.groups("c2l", "demo").items()))
    wanted = [f"results/nuclei/demo/{sample}.parquet" for sample in members]
    assert plan.labels.inputs("c2l", "demo", group)["nuclei"] == wanted
    # Thinning takes counts, no cells: both halves expect what the whole expects.
    assert plan.labels.inputs("c2l-half0s0", "demo", group)["nuclei"] == wanted
    assert load(demo()).labels.inputs("c2l", "demo", group)["nuclei"] == []
    her2st = {"source": "her2st", "sheet": "cohorts/her2st.tsv", "samples": ["B4"], "images": False}
    raw["cohorts"]["blind"] = her2st
    assert load(raw).labels.inputs("c2l", "blind", "B")["nuclei"] == []


HGNC = "results/sources/genes/hgnc_complete_set_2026-09-04.tsv"


def meeting_plan(tmp_path: Path, genes: dict[str, Any], sources: tuple[str, ...] = ("files", "files")) -> Plan:
    for number, source in enumerate(sources):
        more = {"counts": "c", "spots": "s"} if source == "stnet" else {}
        known = row(f"S{number}", f"P{number}")
        if source == "stnet":
            known = {k: v for k, v in known.items() if k != "positions"}
        write_sheet(tmp_path / f"{number}.tsv", [{**known, **more}])
    cohorts = [f"c{i}" for i in range(len(sources))]
    raw = {
        "cohorts": {name: {"source": s, "sheet": f"{i}.tsv"} for i, (name, s) in enumerate(zip(cohorts, sources, strict=True))},
        "genes": genes,
        "tiles": {"t": {}},
        "references": {"ref": {"source": "h5ad", "path": "ref.h5ad"}},
        "labels": {"n": {"method": "nnls", "reference": "ref"}},
        "models": {"mean": {"kind": "train_mean"}},
        "experiments": {
            "e": {"task": "evaluate", "cohorts": cohorts, "tiles": "t", "labels": "n", "models": ["mean"], "split": "leave_one_patient_out"}
        },
    }  # fmt: skip
    return load(raw, tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("genes", "table"),
    [({}, [HGNC]), ({"match": "name"}, []), ({"table": "mine.tsv"}, ["mine.tsv"]), ({"table": "{raw_dir}/g.tsv"}, ["results/sources/g.tsv"])],
)  # fmt: skip
def test_real_sections_meet_a_reference_through_the_table(
    tmp_path: Path, genes: dict[str, Any], table: list[str]
) -> None:
    plan = meeting_plan(tmp_path, genes)
    assert plan.labels.inputs("n", "c0", "P0")["genes"] == table
    assert plan.experiments.audit_genes("e") == []  # two cohorts of one kind have one vocabulary


def test_cohorts_of_two_sources_meet_through_the_table(tmp_path: Path) -> None:
    assert meeting_plan(tmp_path, {}, ("files", "stnet")).experiments.audit_genes("e") == [HGNC]
    assert meeting_plan(tmp_path, {"match": "name"}, ("files", "stnet")).experiments.audit_genes("e") == []


def test_the_demo_needs_no_table() -> None:
    plan = load(demo())
    assert plan.labels.inputs("c2l", "demo", next(iter(plan.labels.groups("c2l", "demo"))))["genes"] == []
    assert plan.experiments.audit_genes("demo") == []


def test_an_encoder_of_expression_meets_its_vocabulary_through_the_table() -> None:
    raw = demo()
    raw["encoders"]["cells"] = {"card": "scgpt", "tiles": "um112", "weights": "w"}
    plan = load(raw)
    batch = next(iter(plan.embeddings.batches("cells", "demo")))
    assert plan.embeddings.batch_files("cells", "demo", batch)["genes"] == [HGNC]
    assert (
        plan.embeddings.batch_files("texture", "demo", next(iter(plan.embeddings.batches("texture", "demo"))))["genes"]
        == []
    )


def test_genes_match_by_a_known_way() -> None:
    with pytest.raises(InputError, check=has_code("schema-value"), match=r"genes\.match"):
        load({**demo(), "genes": {"match": "symbol"}})


def test_a_ceiling_asks_for_the_labels_of_both_halves_by_the_method_of_the_whole() -> None:
    raw = demo()
    raw["checks"] = {"top": {"kind": "ceiling", "labels": "c2l", "cohorts": ["demo"]}}
    plan = load(raw)
    files = plan.checks.files("top")
    assert files == {
        "labels": ["results/labels/c2l-half0s0/demo.h5ad"],
        "against": ["results/labels/c2l-half1s0/demo.h5ad"],
    }
    for half in (0, 1):
        name = f"c2l-half{half}s0"
        groups = plan.labels.groups(name, "demo")
        assert groups == plan.labels.groups("c2l", "demo")
        assert plan.labels.seeds(name) == [half]  # the halves must not share the optimiser's noise
        assert plan.labels.spec(name) == plan.labels.spec("c2l")
        (group, members), *_ = groups.items()
        wanted = [f"results/thinned/{half}.0/demo/{sample}.h5ad" for sample in members]
        assert plan.labels.inputs(name, "demo", group)["samples"] == wanted
    assert plan.checks.ceilings("demo") == ["top"]
    assert "results/tables/demo/attainable.csv" in plan.report.targets()


def test_groups_are_deconvolved_side_by_side_with_signatures_made_once() -> None:
    path = ROOT / "config" / "decomposition.yaml"
    plan = load(yaml.safe_load(path.read_text()) | {"only": ["her2st_paper"]}, path)
    files = plan.labels.part_files("c2l", "her2st")
    inputs = [plan.labels.inputs("c2l", "her2st", group) for group in plan.labels.groups("c2l", "her2st")]
    assert len(inputs) == 8
    assert len(files) == 8 * 2  # seeds
    assert {tuple(found["reference"]) for found in inputs} == {("results/references/hbca.h5ad",)}
    members = [path for found in inputs for path in found["samples"]]
    assert len(members) == len(set(members)) == 36
    # No group waits for another's labels.
    assert not any("/labels/" in path for found in inputs for paths in found.values() for path in paths)


def test_an_experiment_that_leaks_on_purpose_is_compared_and_used_for_nothing_else() -> None:
    raw = demo()
    raw["experiments"]["paired"] = {**raw["experiments"]["demo"], "split": "paired_leakage", "paper": None}
    plan = load(raw)
    assert "paired" not in plan.experiments.evaluations()
    assert plan.experiments.leakage_tests() == ["leakage", "paired"]
    wanted = [target for target in plan.report.targets() if "/paired/" in target]
    assert sorted(wanted) == [
        "results/figures/paired/leaks.png",
        *(f"results/tables/paired/leaks.{extension}" for extension in ("csv", "html", "md")),
    ]
    for section, name, entry in (
        ("experiments", "unseen", {**raw["experiments"]["unseen"], "from": "paired"}),
        ("checks", "j", {"kind": "predicted_nuclei", "experiment": "paired"}),
    ):
        changed = {**raw, section: {**raw[section], name: entry}}
        with pytest.raises(InputError, check=has_code("experiment-leaks-on-purpose"), match="'paired'"):
            load(changed)


def test_a_transfer_is_compared_where_the_sheets_say_that_patients_are_shared(tmp_path: Path) -> None:
    write_sheet(tmp_path / "one.tsv", [row("S1", "P1"), row("S2", "P2")])
    write_sheet(tmp_path / "two.tsv", [row("T1", "P2"), row("T2", "P3", exclude="torn")])
    write_sheet(tmp_path / "three.tsv", [row("T1", "P4"), row("T2", "P1", exclude="torn")])
    experiment = {
        "task": "evaluate", "tiles": "t", "split": "transfer", "train_cohorts": ["one"], "labels": "l",
        "models": ["m"], "on_overlap": "allow",
    }  # fmt: skip
    raw: dict[str, Any] = {
        "cohorts": {name: {"source": "files", "sheet": f"{name}.tsv"} for name in ("one", "two", "three")},
        "tiles": {"t": {"size_px": 224, "um_per_px": 0.5}},
        "labels": {"l": {"method": "published", "table": "x"}},
        "models": {"m": {"kind": "train_mean"}},
        "experiments": {
            "shared": {**experiment, "test_cohorts": ["two"]},
            "dropped": {**experiment, "test_cohorts": ["two"], "on_overlap": "drop"},
            "off": {**experiment, "test_cohorts": ["two"], "draws": 0},
            "unshared": {**experiment, "test_cohorts": ["three"]},
        },
    }
    plan = load(raw, tmp_path / "c.yaml")
    assert plan.experiments.leakage_tests() == ["shared"]
    assert plan.experiments.evaluations() == list(raw["experiments"])


@pytest.mark.parametrize(
    ("section", "key", "value", "instead"), OLD_KEYS, ids=[".".join(map(str, item[:3])) for item in OLD_KEYS]
)
def test_old_keys_are_answered_with_the_new_ones(section: str, key: str, value: str | None, instead: str) -> None:
    raw = demo()
    (raw[section]["demo"] if section else raw)[key] = value or {}
    with pytest.raises(InputError, check=has_code("config-old-key")) as caught:
        load(raw)
    assert caught.value.where.endswith(f"{section}.demo.{key}" if section else key)
    assert instead in str(caught.value)


def test_an_old_column_of_a_sheet_is_read_by_its_new_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = {"badge" if key == "qc_flag" else key: value for key, value in row("S1", qc_flag="torn").items()}
    for _ in range(2):
        assert [section["qc_flag"] for section in own(tmp_path, [old]).config.sheets["mine"]] == ["torn"]
    assert [record.getMessage().count("qc_flag") for record in caplog.records] == [1]
