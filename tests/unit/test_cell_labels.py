"""Labels of cells: SingleR against the package's own call, pruning as R does it, nuclei, filters and bad input."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy.sparse import csr_matrix

from error_codes import has_code
from histoloom.artefacts import Table, write_table
from histoloom.cells.labels import label_cells
from histoloom.cells.nuclei import read_nuclei
from histoloom.cells.singler import prune_by_margin
from histoloom.errors import InputError
from histoloom.plan import Plan
from histoloom.schemas import check, load_schema

TYPES = ("T-cells", "B-cells", "Fibroblasts")
GENES = [f"GENE{i}" for i in range(60)]


def profile_means() -> np.ndarray:
    """(types, genes); twenty genes of each type's own."""
    means = np.full((3, 60), 0.4)
    for kind in range(3):
        means[kind, kind * 20 : (kind + 1) * 20] = 6.0
    return means


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    """A section of 90 cells of three types, and a reference of 30 profiles in both forms."""
    rng = np.random.default_rng(0)
    kind = np.arange(90) % 3
    counts = rng.poisson(profile_means()[kind])
    places = rng.random((90, 2)) * 2000
    ids = [f"c{i}" for i in range(90)]
    section = tmp_path / "S1.h5ad"
    facts = {"cohort": "own", "sample": "S1", "patient": "A", "mpp": 0.5, "slide_sha256": "0" * 64}
    obs = pd.DataFrame({"in_tissue": True}, index=ids)
    write_table(Table(obs, pd.DataFrame(index=GENES), csr_matrix(counts), {}, {"spatial": places}, facts), section)
    of = np.arange(30) % 3
    raw = rng.poisson(profile_means()[of] * 20).astype(float)
    values = np.log1p(raw / raw.sum(1, keepdims=True) * 1e4)
    names = [f"p{i}" for i in range(30)]
    labels = pd.DataFrame({"main": np.array(TYPES)[of]}, index=names)
    data = anndata.AnnData(values, labels, pd.DataFrame(index=GENES))
    data.write_h5ad(tmp_path / "ref.h5ad")
    pd.DataFrame(values.T, GENES, names).to_csv(tmp_path / "ref.csv.gz")
    labels.to_csv(tmp_path / "ref_labels.csv")
    return {
        "folder": tmp_path, "section": section, "kind": kind, "counts": counts, "places": places, "values": values,
        "labels": labels, "raw": raw, "ids": ids, "facts": facts,
    }  # fmt: skip


def entry(method: str, **given: Any) -> dict[str, Any]:
    needed = {
        "singler": {"reference": "r", "label_key": "main", "values": "log", "min_shared_genes": 20},
        "nuclei": {"nuclei": "n"},
    }
    spec = {"method": method, **needed[method], **given}
    check(spec, load_schema(f"cell_labels.{method}"), "test")
    return spec


def run(world: dict[str, Any], spec: dict[str, Any], **files: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    out, steps = world["folder"] / "out.csv", world["folder"] / "steps.csv"
    label_cells(spec=spec, sample=world["section"], files=files, out=out, steps=steps)
    return pd.read_csv(out, index_col="cell_id"), pd.read_csv(steps).set_index("step")["n"].to_dict()


def test_singler_is_the_packages_own_and_csv_equals_h5ad(world: dict[str, Any]) -> None:
    singler = pytest.importorskip("singler")
    spec = entry("singler", pruned="keep")
    table, _ = run(world, spec, reference=world["folder"] / "ref.h5ad")
    own = singler.annotate_single(
        csr_matrix(world["counts"].astype(float)).T, world["values"].T, list(world["labels"]["main"]),
        test_features=GENES, ref_features=GENES,
    )  # fmt: skip
    assert list(table["label"]) == list(own.get_column("best"))
    assert (table["label"] == np.array(TYPES)[world["kind"]]).mean() > 0.95
    np.testing.assert_allclose(table["delta"], own.get_column("delta"), atol=1e-6)
    files = {"reference": world["folder"] / "ref.csv.gz", "reference_labels": world["folder"] / "ref_labels.csv"}
    pd.testing.assert_frame_equal(run(world, spec, **files)[0], table)


def test_counts_of_the_reference_are_brought_to_logarithms(world: dict[str, Any]) -> None:
    pytest.importorskip("singler")
    log, _ = run(world, entry("singler"), reference=world["folder"] / "ref.h5ad")
    path = world["folder"] / "raw.h5ad"
    anndata.AnnData(world["raw"], world["labels"], pd.DataFrame(index=GENES)).write_h5ad(path)
    linear, _ = run(world, entry("singler", values="linear"), reference=path)
    pd.testing.assert_frame_equal(linear, log)
    with pytest.raises(InputError, check=has_code("singler-not-log")):
        run(world, entry("singler", values="log"), reference=path)
    with pytest.raises(InputError, check=has_code("singler-log-of-log")):
        run(world, entry("singler", values="linear"), reference=world["folder"] / "ref.h5ad")


def test_cells_pruned_by_margin_are_those_of_the_rule_in_r() -> None:
    rng = np.random.default_rng(1)
    label = np.array(["a"] * 50 + ["b"] * 50, dtype=object)
    margin = np.concatenate([rng.normal(0.3, 0.02, 50), rng.normal(0.8, 0.1, 50)])
    margin[3], margin[60], margin[61] = 0.1, 0.45, 0.1
    expected = np.zeros(100, bool)
    for name in "ab":
        own = margin[label == name]
        centre = np.median(own)
        expected[label == name] = own < centre - 3 * 1.4826 * np.median(abs(own - centre))
    pruned = prune_by_margin(label, margin, 3)
    np.testing.assert_array_equal(pruned, expected)
    # Each label has its own threshold: .45 is low for a "b", and would be high for an "a".
    assert pruned[3]
    assert pruned[60]
    assert pruned[61]
    assert pruned.sum() < 6


def test_pruned_cells_are_dropped_or_kept_and_counted_either_way(world: dict[str, Any]) -> None:
    pytest.importorskip("singler")
    reference = world["folder"] / "ref.h5ad"
    least = round(float(run(world, entry("singler", pruned="keep"), reference=reference)[0]["delta"].median()), 3)
    kept, steps = run(world, entry("singler", pruned="keep", min_delta=least), reference=reference)
    assert len(kept) == 90
    assert (kept["pruned"] == "delta").sum() > 5
    low = int((kept["delta"] < least).sum())
    assert [n for step, n in steps.items() if step.startswith(f"delta below {least:g}")] == [low]
    dropped, _ = run(world, entry("singler", min_delta=least), reference=reference)
    pd.testing.assert_frame_equal(dropped, kept[kept["pruned"].isna()], check_dtype=False)


def test_classes_take_labels_together_and_count_what_they_leave_out(world: dict[str, Any], caplog: Any) -> None:
    pytest.importorskip("singler")
    caplog.set_level(logging.INFO)
    spec = entry("singler", pruned="keep", classes={"lymphocyte": ["T-cells", "B-cells"]})
    table, steps = run(world, spec, reference=world["folder"] / "ref.h5ad")
    assert set(table["label"]) == {"lymphocyte"}
    (step,) = [name for name in steps if name.startswith("of a class")]
    assert "Fibroblasts 30" in step
    assert steps[step] == len(table) == 60
    assert "lymphocyte: 60 (100.0 %)" in caplog.text
    with pytest.raises(InputError, check=has_code("cell-labels-map")):
        run(world, entry("singler", classes={"x": ["NK cells"]}), reference=world["folder"] / "ref.h5ad")
    twice = {"x": ["T-cells"], "y": ["T-cells"]}
    with pytest.raises(InputError, check=has_code("cell-labels-class-twice")):
        run(world, entry("singler", classes=twice), reference=world["folder"] / "ref.h5ad")


def test_references_that_cannot_be_used(world: dict[str, Any]) -> None:
    pytest.importorskip("singler")
    path, values, labels = world["folder"] / "bad.h5ad", world["values"], world["labels"]

    def refused(code: str, match: str, genes: list[str] = GENES, obs: pd.DataFrame = labels, **given: Any) -> None:
        anndata.AnnData(values, obs, pd.DataFrame(index=genes)).write_h5ad(path)
        with pytest.raises(InputError, check=has_code(code), match=match):
            run(world, entry("singler", **given), reference=path)

    ensembl = [f"ENSG{i:011d}" for i in range(60)]
    refused("labels-genes-shared", "Ensembl", ensembl)
    refused("labels-genes-shared", "share 10 of", [*GENES[:10], *(f"X{i}" for i in range(50))])
    refused("singler-column", "main", obs=labels.rename(columns={"main": "fine"}))
    refused("singler-labels", "1 labels", obs=labels.assign(main="T-cells"))
    with pytest.warns(UserWarning, match="unique"):
        refused("singler-gene-twice", "GENE0", ["GENE0", *GENES[:-1]])
    with pytest.raises(InputError, check=has_code("singler-no-labels")):
        run(world, entry("singler"), reference=world["folder"] / "ref.csv.gz")
    labels.iloc[1:].to_csv(world["folder"] / "short.csv")
    with pytest.raises(InputError, check=has_code("singler-profiles"), match="p0"):
        files = {"reference": world["folder"] / "ref.csv.gz", "reference_labels": world["folder"] / "short.csv"}
        run(world, entry("singler"), **files)


def nuclei_table(world: dict[str, Any], rows: list[tuple[float, float, str]], name: str = "nuclei.csv") -> Path:
    path = world["folder"] / name
    pd.DataFrame(rows, columns=["x", "y", "label"]).to_csv(path, index=False)
    return path


def test_a_cell_takes_the_label_of_its_nucleus_within_reach(world: dict[str, Any]) -> None:
    near, far = world["places"][0] + [6, 0], world["places"][1] + [25, 0]  # 3 and 12.5 um
    path = nuclei_table(world, [(*near, "t"), (*far, "f"), (*world["places"][2], "l")])
    for matching in ("as_published", "optimal"):
        table, steps = run(world, entry("nuclei", matching=matching), nuclei=path)
        assert table["label"].to_dict() == {"c0": "t", "c2": "l"}
        assert table.loc["c0", "distance_um"] == pytest.approx(3)
        assert [n for step, n in steps.items() if step.startswith("matched")] == [2]
    um = nuclei_table(world, [(*near * 0.5, "t")], "um.csv")
    assert run(world, entry("nuclei", units="um"), nuclei=um)[0].index.tolist() == ["c0"]
    with pytest.raises(InputError, check=has_code("nuclei-none-matched")):
        run(world, entry("nuclei"), nuclei=nuclei_table(world, [(9e5, 9e5, "t")], "away.csv"))


def test_optimal_matching_serves_cells_that_the_published_way_leaves_alone(world: dict[str, Any]) -> None:
    # c0 is nearest to the nucleus that c1 and c2 want too; only one of the other two nuclei is anyone's second nearest.
    places = np.array([[0, 0], [3, 0], [-3.5, 0], [11, 0], [-11, 0]], float) * 2 + 1000
    facts, ids = world["facts"], ["c0", "c1", "c2"]
    counts = csr_matrix(np.ones((3, 60), int))
    obs = pd.DataFrame({"in_tissue": True}, index=ids)
    table = Table(obs, pd.DataFrame(index=GENES), counts, {}, {"spatial": places[:3]}, facts)
    write_table(table, world["section"])
    path = nuclei_table(world, [(*places[0] + [1, 0], "a"), (*places[3], "b"), (*places[4], "c")])
    assert run(world, entry("nuclei", matching="optimal"), nuclei=path)[0]["label"].to_dict() == {
        "c0": "a", "c1": "b", "c2": "c",
    }  # fmt: skip


def feature(kind: str, coordinates: Any, name: str, **more: Any) -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": coordinates}
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **more}


def test_geojson_of_cellvit_and_qupath_is_read_nucleus_by_nucleus(tmp_path: Path) -> None:
    square = [[10, 10], [14, 10], [14, 14], [10, 14], [10, 10]]
    # More corners on one side do not draw the centre there.
    uneven = [[20, 20], [20, 21], [20, 22], [20, 23], [20, 24], [24, 24], [24, 20], [20, 20]]
    content = [
        feature("MultiPolygon", [[square], [uneven]], "Neoplastic", id="u1"),
        feature("Point", [5, 6], "Inflammatory", id="u2"),
    ]
    for whole in (content, {"type": "FeatureCollection", "features": content}):
        path = tmp_path / "cells.geojson"
        path.write_text(json.dumps(whole))
        table = read_nuclei(path)
        np.testing.assert_allclose(table[["x", "y"]], [[12, 12], [22, 22], [5, 6]])
        assert table["label"].tolist() == ["Neoplastic", "Neoplastic", "Inflammatory"]
        assert table["nucleus"].tolist() == ["u1.0", "u1.1", "u2"]


def outlines(path: Path, shapes: list[bytes | None], **columns: list[Any]) -> Path:
    """HEST's layout: GeoDataFrame.to_parquet of the outlines, which holds them as WKB."""
    pd.DataFrame({"geometry": shapes, **columns}).to_parquet(path)
    return path


def test_geoparquet_of_hest_is_read_as_its_geojson(tmp_path: Path) -> None:
    square = shapely.Polygon([[10, 10], [14, 10], [14, 14], [10, 14]])
    uneven = shapely.Polygon([[20, 20], [20, 21], [20, 22], [20, 23], [20, 24], [24, 24], [24, 20]])
    shapes, classes = [square.wkb, uneven.wkb], ["Neoplastic", "Dead"]
    table = read_nuclei(outlines(tmp_path / "a.parquet", shapes, cell_id=[7, 8], **{"class": classes}))
    np.testing.assert_allclose(table[["x", "y"]], [[12, 12], [22, 22]])
    assert table["label"].tolist() == classes
    assert table["nucleus"].tolist() == ["7", "8"]
    with pytest.raises(InputError, check=has_code("nuclei-columns")):
        read_nuclei(outlines(tmp_path / "b.parquet", shapes, name=classes))
    with pytest.raises(InputError, check=has_code("nuclei-parquet")):
        read_nuclei(outlines(tmp_path / "c.parquet", [b"no shape", square.wkb], **{"class": classes}))
    with pytest.raises(InputError, check=has_code("nuclei-place")):
        read_nuclei(outlines(tmp_path / "d.parquet", [square.wkb, None], **{"class": classes}))
    cut = tmp_path / "e.parquet"
    cut.write_bytes((tmp_path / "a.parquet").read_bytes()[:300])
    with pytest.raises(InputError, check=has_code("nuclei-parquet")):
        read_nuclei(cut)


def test_nuclei_that_cannot_be_used(world: dict[str, Any]) -> None:
    path = world["folder"] / "n.csv"

    def refused(content: str, code: str, suffix: str = ".csv") -> None:
        file = path.with_suffix(suffix)
        file.write_text(content)
        with pytest.raises(InputError, check=has_code(code)):
            run(world, entry("nuclei"), nuclei=file)

    refused("x,y\n1,2\n", "nuclei-columns")
    refused("x,y,label\n1,,t\n", "nuclei-place")
    refused("x,y,label\n", "nuclei-place")
    refused("x,y,label,confidence\n1,2,t,1.5\n", "nuclei-confidence")
    refused('{"features": [{"geometry": 3}]}', "nuclei-geojson", ".geojson")
    refused("[1, 2", "nuclei-geojson", ".geojson")
    refused(json.dumps([feature("LineString", [[0, 0], [1, 1]], "t")]), "nuclei-geojson", ".json")
    # Read without an H&E, cells have no place on one.
    facts = {**world["facts"], "slide_sha256": None}
    obs = pd.DataFrame({"in_tissue": True}, index=world["ids"])
    spatial = {"spatial": world["places"]}
    table = Table(obs, pd.DataFrame(index=GENES), csr_matrix(world["counts"]), {}, spatial, facts)
    write_table(table, world["section"])
    with pytest.raises(InputError, check=has_code("nuclei-no-slide")):
        run(world, entry("nuclei"), nuclei=nuclei_table(world, [(1, 1, "t")]))


def test_the_papers_filters_are_steps_with_their_counts(world: dict[str, Any]) -> None:
    counts = world["counts"].copy()
    counts[0], counts[1] = 0, 0
    counts[0, :9], counts[1, :10] = 5, 5  # nine genes, and ten
    counts[:, 59] = 0
    counts[5:7, 59] = 1  # a gene that two cells have
    counts[2, 0], counts[2, 1:] = 30, 0  # all of its counts are mitochondrial, of too few genes as well
    genes = ["MT-CO1", *GENES[1:]]
    counts[3, 0] = counts[3].sum()  # half of its counts
    counts[4:, 0] = 0
    obs = pd.DataFrame({"in_tissue": True}, index=world["ids"])
    spatial = {"spatial": world["places"]}
    write_table(
        Table(obs, pd.DataFrame(index=genes), csr_matrix(counts), {}, spatial, world["facts"]), world["section"]
    )
    rows = [(*place, "t" if i < 80 else "f") for i, place in enumerate(world["places"])]
    other = world["folder"] / "other.csv"
    pd.DataFrame({"cell_id": world["ids"][10:], "label": "any"}).to_csv(other, index=False)
    spec = entry(
        "nuclei", min_genes=10, min_cells_of_gene=3, max_mitochondrial=0.1, matched="other", min_cells=10,
        matching="optimal",
    )  # fmt: skip
    table, steps = run(world, spec, nuclei=nuclei_table(world, rows), matched=other)
    left = {name.split(" (")[0]: n for name, n in steps.items()}
    assert left["cells of the section"] == 90
    assert left["with at least 10 genes"] == 88
    assert left["genes that at least 3 cells have"] == 58  # without the rare one and, after the cells, MT-CO1
    assert left["with a mitochondrial share below 0.1"] == 86  # c1 and c3 as well
    assert left["with a label of 'other' too"] == 80
    assert left["of classes with more than 10 cells"] == 70
    assert set(table["label"]) == {"t"}


def test_a_bundle_without_an_h_and_e_serves_models_of_counts_and_refuses_those_of_pixels(tmp_path: Path) -> None:
    (tmp_path / "own.tsv").write_text("sample\tpatient\tbundle\nS1\tA\touts\n")
    target = {"kind": "cell_class", "table": "labels/{sample}.csv"}
    raw = {
        "cohorts": {"own": {"source": "xenium", "sheet": "own.tsv", "images": False}},
        "tiles": {"t": {"background": {"method": "none"}}},
        "encoders": {n: {"card": c, "tiles": "t"} for n, c in {"g": "log_counts", "m": "stain_texture"}.items()},
        "models": {n: {"kind": "logistic_regression", "inputs": [n]} for n in "gm"},
        "experiments": {"e": {"task": "evaluate", "cohorts": ["own"], "tiles": "t", "models": ["g", "m"],
                              "split": "random", "target": target}},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text("{}")
    plan = Plan.from_raw(raw, [tmp_path / "config.yaml"])
    (batch,) = plan.embeddings.batches("g", "own")
    assert plan.sections.slide_files("own", "S1") == []
    assert plan.embeddings.batch_files("g", "own", batch)["slides"] == []
    with pytest.raises(InputError, check=has_code("cohort-without-slides")):
        plan.embeddings.batch_files("m", "own", batch)
