"""Targets of expression: recipes by name, genes of the papers, Harmony, smoothing, which spots count, gene sets."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from modelworld import World, experiment
from scipy.sparse import csr_array, csr_matrix

from error_codes import has_code
from histoloom.config import load_config
from histoloom.errors import InputError
from histoloom.folds.panel import panel_table
from histoloom.metrics import expression as scores
from histoloom.metrics.gene_sets import GeneSets, read_gene_sets
from histoloom.metrics.protocol import short
from histoloom.metrics.scored import Scored, training_side
from histoloom.targets import make_target, read_target
from histoloom.targets.base import write_target
from histoloom.targets.correction import harmonise, smooth
from histoloom.targets.hvg import hvg_union
from histoloom.targets.recipes import Recipe

RNG = np.random.default_rng(5)
COUNTS = RNG.poisson(RNG.gamma(0.6, 4.0, size=(40, 9)) * RNG.gamma(2.0, 0.5, size=(40, 1)))
COUNTS[7] = 0
OUTSIDE = RNG.poisson(30, 40) * (np.arange(40) != 7)  # counts of genes that the target does not have


def values(name: str, **keys: object) -> np.ndarray:
    recipe = Recipe.from_json({"recipe": name, **keys})
    return recipe.values(csr_array(COUNTS), (COUNTS.sum(axis=1) + OUTSIDE).astype(float), 12).toarray()


def test_recipes_are_the_formulas_of_their_papers():
    total = COUNTS.sum(axis=1) + OUTSIDE
    # Dense: scanpy's median of totals leaves spots without counts out there, and counts them in a sparse matrix.
    whole = anndata.AnnData(np.column_stack([COUNTS, OUTSIDE]).astype(float))
    scanpy.pp.normalize_total(whole)
    scanpy.pp.log1p(whole)
    np.testing.assert_allclose(values("median_log1p"), whole.X[:, :9], rtol=1e-6)
    np.testing.assert_allclose(values("counts_log1p"), np.log(1 + COUNTS))
    with np.errstate(invalid="ignore"):
        scaled = np.nan_to_num(COUNTS / total[:, None] * 1e4)
        own = np.nan_to_num(COUNTS / COUNTS.sum(axis=1)[:, None] * 1e4)
    np.testing.assert_allclose(values("total_log1p"), np.log(1 + scaled))
    np.testing.assert_allclose(values("histogene"), np.log10(1 + own))
    np.testing.assert_allclose(values("stnet"), np.log((1 + COUNTS) / (12 + total[:, None])))
    np.testing.assert_allclose(values("total_log1p", target_sum=1e6, log="none"), scaled * 100)


def test_a_recipe_that_contradicts_itself_is_refused():
    with pytest.raises(InputError, check=has_code("recipe-stnet")):
        Recipe.from_json({"recipe": "stnet", "size_factor": "total"})
    with pytest.raises(InputError, check=has_code("target-sum")):
        Recipe.from_json({"target_sum": 0.0})


def noisy(section: np.ndarray, n_genes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.5, 3.0, size=(len(section), n_genes)) * rng.gamma(1.0, 1.0, size=n_genes))


def test_the_union_of_variable_genes_is_scanpys_section_by_section():
    section = np.repeat(["a", "b"], 60)
    counts, genes = noisy(section, 200, 1), [f"g{i}" for i in range(200)]
    chosen = set()
    for name in ("a", "b"):
        data = anndata.AnnData(csr_matrix(counts[section == name].astype(float)), var=pd.DataFrame(index=genes))
        scanpy.pp.normalize_total(data)
        scanpy.pp.log1p(data)
        scanpy.pp.highly_variable_genes(data, flavor="seurat", n_top_genes=30)
        chosen |= set(data.var_names[data.var["highly_variable"]])
    union = hvg_union(csr_array(counts), section, genes, 30)
    assert union == [g for g in genes if g in chosen]
    assert 30 < len(union) < 60  # some are shared, some are not
    roles = {"f": np.where(section == "a", "train", "test")}
    for on, expected in (
        ("train", set(hvg_union(csr_array(counts[:60]), section[:60], genes, 30))),
        ("dataset", chosen),
    ):
        panel = {"genes": "hvg_union", "k": 30, "selected_on": on}
        assert set(panel_table(csr_array(counts), genes, section, roles, panel)["gene"]) == expected
    with pytest.raises(InputError, check=has_code("hvg-observations")):
        hvg_union(csr_array(counts * (section == "a")[:, None]), section, genes, 30)


def spots(sections: dict[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    frames = [
        pd.DataFrame({"cohort": "c", "sample": name, "array_row": row, "array_col": col})
        for name, (row, col) in sections.items()
    ]
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("n_genes", [25, 80])  # 80 genes of 80 spots: the shape does not tell the orientation
def test_harmony_takes_away_what_differs_by_section_whichever_way_it_returns_it(n_genes):
    rng = np.random.default_rng(2)
    kind = rng.integers(0, 2, 80)
    x = rng.normal(scale=0.3, size=(80, n_genes)) + 3 * kind[:, None] * (np.arange(n_genes) < 10)
    section = np.repeat([0, 1], 40)
    x += 1.5 * section[:, None] * (np.arange(n_genes) >= n_genes - 8)
    obs = pd.DataFrame({"cohort": "c", "sample": np.where(section, "t", "s")})
    order = np.random.default_rng(0).permutation(80)
    fixed = harmonise(csr_array(x[order]), obs.iloc[order])
    back = np.empty_like(fixed)
    back[order] = fixed
    gap = np.abs(back[section == 1].mean(axis=0) - back[section == 0].mean(axis=0))
    assert gap[-8:].mean() < 0.75  # was 1.5
    assert np.corrcoef(back[:, :10].mean(axis=1), kind)[0, 1] > 0.95
    with pytest.raises(InputError, check=has_code("harmony-sections")):
        harmonise(csr_array(x), obs.assign(sample="one"))


def test_smoothing_is_the_mean_over_neighbours_of_the_own_section():
    row, col = np.divmod(np.arange(9), 3)
    hex_row, hex_col = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3]), np.array([0, 2, 4, 1, 3, 0, 2, 4, 1, 3])
    obs = spots({"a": (row, col), "b": (row, col), "h": (hex_row, hex_col)})
    mixed = np.random.default_rng(0).permutation(len(obs))
    x = np.arange(len(obs), dtype=float)[:, None] ** 2
    got = np.empty(len(obs))
    got[mixed] = smooth(csr_array(x[mixed]), obs.iloc[mixed].reset_index(drop=True)).toarray().ravel()
    assert got[4] == pytest.approx(x[:9].mean())  # the middle of a square array sees all nine
    assert got[9] == pytest.approx(x[[9, 10, 12, 13]].mean())  # a corner, of the second section alone
    at = 18 + 6  # row 2, column 2: two of its row, two of the row above, two of the row below
    assert got[at] == pytest.approx(x[[at, at - 1, at + 1, 18 + 3, 18 + 4, 18 + 8, 18 + 9]].mean())
    with pytest.raises(InputError, check=has_code("smoothing-coordinates")):
        smooth(csr_array(x[:9]), obs.iloc[:9].assign(array_row=np.nan))


def test_spots_outside_the_tissue_count_only_on_request_and_are_counted_always(tmp_path):
    world = World(tmp_path, patients={"A": ["A1"], "B": ["B1"]})
    targets = {}
    for rule in ("tissue", "array"):
        panel = {"genes": "all"}
        spec = experiment(labels=None, target={"kind": "expression", "observations": rule, "panel": panel})
        out = tmp_path / f"{rule}.h5ad"
        make_target(spec=spec, files={"samples": world.samples, "tiles": world.tiles}, out=out)
        targets[rule] = read_target(out)
    for step in targets["array"].metadata["steps"]:
        assert (step["observations"], step["in_tissue"], step["kept"], step["kept_in_tissue"]) == (64, 63, 63, 62)
    assert [len(targets[rule].obs) for rule in ("tissue", "array")] == [2 * 62, 2 * 63]
    outside = set(targets["array"].obs.index) - set(targets["tissue"].obs.index)
    assert outside == {f"demo/{name}/{world.ids()[0]}" for name in ("A1", "B1")}
    assert "all spots of the array" in short({"target": targets["array"].metadata["recipe"]})
    assert "all spots" not in short({"target": targets["tissue"].metadata["recipe"]})


def config(tmp_path, **target):
    (tmp_path / "s.tsv").write_text("sample\tpatient\ttechnology\nA\tp\tVisium\n")
    raw = {
        "cohorts": {"c": {"source": "hest", "sheet": "s.tsv"}},
        "tiles": {"t": {"size_px": 64, "um_per_px": 1.0}},
        "models": {"m": {"kind": "train_mean"}},
        "experiments": {"e": {"task": "evaluate", "cohorts": ["c"], "tiles": "t", "split": "leave_one_patient_out",
                              "models": ["m"], "target": {"kind": "expression", **target.pop("target", {})}, **target}},
    }  # fmt: skip
    return load_config(raw, [tmp_path / "c.yaml"]).get("experiments", "e")


def test_lists_of_markers_are_named_and_harmony_needs_its_genes(tmp_path):
    entry = config(tmp_path, gene_sets={"k": [50, 150], "markers": "cmrcnet_psc"})
    assert entry["gene_sets"] == {"k": [50, 150], "markers": ["CYP3A4", "VWF", "KRT7", "ACTA2", "DCN"]}
    entry = config(tmp_path, target={"panel": {"genes": "marker", "markers": "cmrcnet_skcm"}})
    assert entry["target"]["panel"]["markers"] == ["MIA", "PMEL", "MLANA", "MITF", "TYR"]
    with pytest.raises(InputError, check=has_code("markers-unknown")):
        config(tmp_path, gene_sets={"markers": "cmrcnet_liver"})
    with pytest.raises(InputError, check=has_code("schema-value"), match="hvg_union"):
        config(tmp_path, target={"batch_correction": "harmony", "panel": {"genes": "hvg", "selected_on": "dataset"}})
    good = {"genes": "hvg_union", "selected_on": "dataset"}
    assert config(tmp_path, target={"batch_correction": "harmony", "panel": good})["target"]["panel"]["k"] == 50


GENES = [f"g{i:02d}" for i in range(12)]


def three_sections(seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Sections of three patients; each has variable genes of its own, and predictions that follow those a little."""
    rng = np.random.default_rng(seed)
    names = np.repeat(["A1", "B1", "C1"], 50)
    obs = pd.DataFrame({"cohort": "c", "sample": names, "patient": [n[0] for n in names],
                        "obs_id": [f"o{i}" for i in range(150)], "qc_flag": "", "array_row": np.arange(150), "array_col": 0})  # fmt: skip
    counts = rng.poisson(rng.uniform(1, 9, 12), size=(150, 12))
    for s in range(3):
        counts[50 * s : 50 * s + 50, 4 * s : 4 * s + 4] = rng.poisson(rng.gamma(0.7, 9.0, size=(50, 4)))
    return obs, counts, np.log1p(counts) + rng.normal(scale=0.7, size=(150, 12))


def scored_sets(tmp_path, counts, obs, prediction, **entry) -> tuple[pd.DataFrame, GeneSets]:
    from histoloom.artefacts import write_parquet
    from histoloom.identity import make_identity

    identity = {"identity": make_identity("targets", {}, {})}
    write_target(obs.set_axis("c/" + obs["sample"] + "/" + obs["obs_id"]).assign(x=0.0, y=0.0), csr_array(np.log1p(counts)),
                 GENES, identity, tmp_path / "t.h5ad", {"counts": csr_array(counts)})  # fmt: skip
    sections = obs.drop_duplicates("sample")
    folds = pd.concat(
        sections.assign(fold=f"patient-{p}", obs_id=None, block=None,
                        role=np.where(sections["patient"] == p, "test", "train")) for p in "ABC"
    )[["fold", "cohort", "sample", "patient", "obs_id", "block", "role"]]  # fmt: skip
    write_parquet(folds.astype("string"), tmp_path / "f.parquet", identity)
    sets = read_gene_sets(entry, tmp_path / "t.h5ad", tmp_path / "f.parquet")
    tested = obs.assign(fold="patient-" + obs["patient"])
    constant = training_side(tmp_path / "t.h5ad", tmp_path / "f.parquet", GENES).constant
    labels = {"labels": np.log1p(counts)}
    rows = scores.score(Scored(tested, GENES, prediction, {}, labels, {}, gene_sets=sets, constant=constant))
    return rows, sets


def value(rows, metric, aggregation, gene_set, k, **where):
    keys = {"metric": metric, "aggregation": aggregation, "gene_set": gene_set, "k": k, "target": "", **where}
    for key, wanted in keys.items():
        rows = rows[rows[key] == wanted]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_set_chosen_on_training_does_not_see_the_test_section_and_one_chosen_on_its_truth_does(tmp_path):
    obs, counts, prediction = three_sections()
    rows, sets = scored_sets(tmp_path, counts, obs, prediction, k=[4], markers=["g00", "g05", "ABSENT"])
    y = np.log1p(counts)
    cc = {s: [np.corrcoef(y[at, g], prediction[at, g])[0, 1] for g in range(12)]
          for s in ("A1", "B1", "C1") for at in [(obs["sample"] == s).to_numpy()]}  # fmt: skip
    ours, published = [], []
    for patient in "ABC":
        train = (obs["patient"] != patient).to_numpy()
        best = np.argsort(-y[train].var(axis=0))[:4]
        ours.append(np.mean([cc[f"{patient}1"][g] for g in best]))
        best = np.argsort(-y[~train].var(axis=0))[:4]
        published.append(np.mean([cc[f"{patient}1"][g] for g in best]))
        assert value(rows, "pcc_panel", "section", "hvg", "4", patient=patient)["value"] == pytest.approx(ours[-1])
    assert value(rows, "pcc_panel", "cohort", "hvg", "4")["value"] == pytest.approx(np.mean(ours))
    assert value(rows, "pcc_published", "cohort", "hvg", "4")["value"] == pytest.approx(np.mean(published))
    assert np.mean(published) > np.mean(ours) + 0.1  # what choosing by the answer flatters by
    marker = value(rows, "pcc_panel", "section", "marker", "3", sample="A1")
    assert marker["value"] == pytest.approx((cc["A1"][0] + cc["A1"][5]) / 2)
    assert (marker["n"], marker["n_nan"]) == (2, 1)
    # Another truth of the test section moves its own set and not ours.
    changed = counts.copy()
    changed[(obs["sample"] == "A1").to_numpy(), 11] = np.arange(50) * 100
    assert scored_sets(tmp_path, changed, obs, prediction, k=[4])[1].train["patient-A"] == sets.train["patient-A"]
    assert sets.dataset["heg"][0] == GENES[int(np.argmax(counts.mean(axis=0)))]


def test_an_undefined_gene_is_left_out_in_ours_and_zero_in_the_published_way(tmp_path):
    obs, counts, prediction = three_sections()
    at = (obs["sample"] == "A1").to_numpy()
    counts[at, 3] = 2
    rows, _ = scored_sets(tmp_path, counts, obs, prediction, k=[12])
    y = np.log1p(counts)
    cc = [np.corrcoef(y[at, g], prediction[at, g])[0, 1] for g in range(12) if g != 3]
    ours = value(rows, "pcc_panel", "section", "heg", "12", sample="A1")
    assert (ours["value"], ours["n"], ours["n_nan"]) == (pytest.approx(np.mean(cc)), 11, 1)
    published = value(rows, "pcc_published", "section", "heg", "12", sample="A1")
    assert (published["value"], published["n_nan"]) == (pytest.approx(np.sum(cc) / 12), 0)


@pytest.mark.parametrize("predicts", ["a constant", "noise"])
def test_a_gene_that_training_does_not_have_is_undefined_for_every_model(tmp_path, predicts):
    obs, counts, prediction = three_sections()
    at = (obs["sample"] == "A1").to_numpy()
    counts[~at, 3] = 0
    if predicts == "a constant":
        prediction[at, 3] = 0
    rows, _ = scored_sets(tmp_path, counts, obs, prediction, k=[12])
    y = np.log1p(counts)
    cc = [np.corrcoef(y[at, g], prediction[at, g])[0, 1] for g in range(12) if g != 3]
    ours = value(rows, "pcc_panel", "section", "heg", "12", sample="A1")
    assert (ours["value"], ours["n"], ours["n_nan"]) == (pytest.approx(np.mean(cc)), 11, 1)
    gene = rows[(rows["target"] == GENES[3]) & rows["metric"].isin(["cc", "pcc_bench"])]
    own = gene[(gene["patient"] == "A") | (gene["fold"] == "patient-A")]
    assert own["value"].isna().all()
    assert len(own) >= 4
    # In the published way it is a zero, as every undefined gene is; folds that were trained on it keep their numbers.
    published = value(rows, "pcc_published", "section", "heg", "12", sample="A1")
    assert published["value"] == pytest.approx(np.sum(cc) / 12)
    assert value(rows, "pcc_panel", "section", "heg", "12", sample="B1")["n_nan"] == 1  # constant in its own truth
