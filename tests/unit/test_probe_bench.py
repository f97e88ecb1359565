"""HEST-bench's task from its raw files to its number, against the benchmark restated on the raw files alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from modelworld import model_spec
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from bench_layout import FOLDS, FOLLOW, MPP, NOISE, PATCH_PX, SECTIONS, UNPATCHED, write_task
from error_codes import has_code
from histoloom.embeddings import EncoderSpec, embed_batch, open_embeddings
from histoloom.errors import InputError
from histoloom.folds import make_folds, read_folds
from histoloom.folds.panel import panel_table, select_panel
from histoloom.folds.published import coverage, read_splits
from histoloom.metrics import score_predictions
from histoloom.metrics.rows import read_metrics
from histoloom.models import fit_models, predict_models
from histoloom.models.artefact import load_models
from histoloom.samples import read_section
from histoloom.samples.hest_bench import HestBenchReader, published_genes
from histoloom.schemas import check, load_schema
from histoloom.slides import open_slide
from histoloom.targets import make_target, read_target
from histoloom.targets.base import read_counts
from histoloom.tiles import cut_tiles, read_tiles

TILES = {"size_px": PATCH_PX, "um_per_px": 0.5, "border": "drop", "pad": "white", "background": {"method": "none"}}
COHORT = {"source": "hest_bench", "task": "TOY", "folds": len(FOLDS), "sheet": "toy.tsv"}


def experiment(panel: dict | None = None, recipe: dict | None = None, **changes) -> dict:
    recipe = recipe or {}
    entry = {
        "task": "evaluate", "cohorts": ["toy"], "tiles": "bench", "models": ["m"], "split": "published",
        "target": {"kind": "expression", "panel": panel or {"genes": "published"}, **recipe}, **changes,
    }  # fmt: skip
    entry = copy.deepcopy(entry)
    check(entry["target"], load_schema("target.expression"), "test")
    check(entry, load_schema("experiment.evaluate"), "test")
    return {**entry, "name": "toy"}


def row(sample: str) -> dict[str, str]:
    return {"sample": sample, "patient": SECTIONS[sample], "technology": "Visium"}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The toy task read, cut, embedded."""
    root = tmp_path_factory.mktemp("bench")
    sections = write_task(root / "hest_bench")
    found = SimpleNamespace(root=root, raw=root / "hest_bench/TOY", sections=sections, samples=[], tiles=[], slides=[])
    for name in SECTIONS:
        files = {k: Path(v) for k, v in HestBenchReader.files(row(name), COHORT, root / "hest_bench").items()}
        sample, tiles, picture = root / f"{name}.h5ad", root / f"{name}.parquet", root / f"{name}.png"
        read_section(
            source="hest_bench", cohort="toy", row=row(name), spec=COHORT, files=files, out=sample, picture=picture
        )
        cut_tiles(sample=sample, slide=files["image"], spec=TILES, out=tiles, picture=root / f"{name}-tiles.png")
        found.samples.append(sample)
        found.tiles.append(tiles)
        found.slides.append(files["image"])
    spec = {"card": "stain_texture", "tiles": "bench", "weights": "card"}
    check(spec, load_schema("encoder"), "test")
    card = {"name": "stain_texture", **load_card("stain_texture")}
    found.embeddings = root / "e.h5"
    embed_batch(
        cohort="toy", batch="b0", samples=found.samples, slides=found.slides, tiles=found.tiles,
        specs=[EncoderSpec.from_json({**spec, "name": "texture", "card": card, "tiles_spec": TILES})], out=[found.embeddings],
        efficiency=[root / "e.json"], scratch=[root / "scratch"], threads=1, device="cpu",
    )  # fmt: skip
    return found


def load_card(name: str) -> dict:
    import yaml

    card = yaml.safe_load((Path(__file__).resolve().parents[2] / "resources/encoders.yaml").read_text())[name]
    check(card, load_schema("encoder_card"), name)
    return card


def lay(task: SimpleNamespace, folder: Path, **changes) -> SimpleNamespace:
    """Write target, folds and panel of an experiment."""
    entry = experiment(**changes)
    tables = HestBenchReader.tables(COHORT, task.root / "hest_bench")
    splits = [Path(p) for n, p in tables.items() if n != "genes"] if entry["split"] == "published" else []
    lists = [Path(tables["genes"])] if entry["target"]["panel"]["genes"] == "published" else []
    target, folds, panel = folder / "target.h5ad", folder / "folds.parquet", folder / "panel.parquet"
    files = {"samples": task.samples, "tiles": task.tiles, "genes": lists}
    make_target(spec=entry, files=files, out=target)
    make_folds(spec=entry, target=target, splits=splits, seed=0, out=folds)
    select_panel(spec=entry, target=target, folds=folds, out=panel)
    return SimpleNamespace(spec=entry, target=target, folds=folds, panel=panel, folder=folder)


def probed(task: SimpleNamespace, bench: SimpleNamespace, alpha: str = "published") -> Path:
    out = bench.folder / f"{alpha}.h5ad"
    spec = {**model_spec("pca_ridge", inputs=["texture"], alpha=alpha), "name": alpha}
    files = {"target": [bench.target], "folds": [bench.folds], "panel": [bench.panel],
             "embeddings_texture": [task.embeddings]}  # fmt: skip
    given = {"spec": spec, "experiment": bench.spec, "files": files}
    fit_models(**given, out=out.with_suffix(".pt"), efficiency=out.with_suffix(".json"))
    predict_models(**given, models=[out.with_suffix(".pt")], variant="default", out=out)
    return out


def scored(task: SimpleNamespace, bench: SimpleNamespace) -> pd.DataFrame:
    parts = []
    for alpha in ("published", "inner"):
        out = bench.folder / f"{alpha}.parquet"
        score_predictions(
            spec=bench.spec, experiment="toy", model=alpha, predictions=probed(task, bench, alpha),
            target=bench.target, folds=bench.folds, out=out,
        )  # fmt: skip
        parts.append(read_metrics([out]).assign(variant=alpha))
    rows = pd.concat(parts, ignore_index=True)
    return rows[rows["aggregation"].ne("section") | rows["metric"].eq("cc")]


# reading ---------------------------------------------------------------------------------------------------------


def test_tiles_are_the_published_patches_to_the_byte(task: SimpleNamespace) -> None:
    section = anndata.read_h5ad(task.samples[0])
    facts = json.loads(section.uns["histoloom"])
    assert facts["mpp"] == pytest.approx(MPP, rel=0.005)
    assert facts["dropped"]["spot_without_patch"] == UNPATCHED
    own = task.sections["H1"]
    stored = {own.names[i]: own.patches[at] for at, i in enumerate(own.patched)}
    assert set(section.obs_names) == set(stored)
    side = PATCH_PX * 0.5 / facts["mpp"]
    with open_slide(task.slides[0]) as slide:
        found = list(read_tiles(slide, section.obsm["spatial"], side, PATCH_PX))
    for name, tile in zip(section.obs_names, found, strict=True):
        np.testing.assert_array_equal(tile, stored[name])
    at = own.names.index(section.obs_names[5])
    np.testing.assert_array_equal(section.X[5].toarray().ravel(), own.counts[at])


def test_overview_shows_each_patch_at_its_place(task: SimpleNamespace) -> None:
    own = task.sections["H2"]
    with open_slide(task.slides[1]) as slide:
        small = slide.thumbnail(600)
        scale = small.shape[1] / slide.width
        corners = own.places[own.patched] - PATCH_PX
        middles = np.rint((corners + 180) * scale).astype(int)
        drawn = np.array([small[y, x].astype(float).mean() for x, y in middles])
        region = slide.read(*np.rint(corners[0] + 100).astype(int), 50, 50)
    assert np.corrcoef(drawn, own.patches.mean(axis=(1, 2, 3)))[0, 1] > 0.9
    assert region.mean() == pytest.approx(own.patches[0].mean(), abs=25)
    assert (small == 255).all(axis=2).mean() > 0.1


@pytest.mark.parametrize(
    ("side", "size", "code"), [(448, 112, "patch-size"), (224, 224, "patch-not-there"), (448, 224, "")]
)
def test_other_tiles_than_the_patches_cannot_be_had(task: SimpleNamespace, side: int, size: int, code: str) -> None:
    centre = task.sections["H1"].places[:1]
    with open_slide(task.slides[0]) as slide:
        if not code:
            assert next(read_tiles(slide, centre, side, size)).shape == (size, size, 3)
            return
        with pytest.raises(InputError, check=has_code(code)):
            next(read_tiles(slide, centre, side, size))


def test_patches_that_are_none_stop(task: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "bad.h5").write_bytes(b"no h5")
    with pytest.raises(InputError, check=has_code("patches-unreadable")):
        open_slide(tmp_path / "bad.h5")
    with h5py.File(tmp_path / "odd.h5", "w") as handle:
        handle["img"], handle["coords"] = np.zeros((3, 8, 9, 3), np.uint8), np.zeros((3, 2))
    with pytest.raises(InputError, check=has_code("patches-dataset")):
        open_slide(tmp_path / "odd.h5")
    (tmp_path / "genes.json").write_text('{"genes": ["A", "A"]}')
    with pytest.raises(InputError, check=has_code("hest-bench-genes")):
        published_genes(tmp_path / "genes.json")


# the number ------------------------------------------------------------------------------------------------------


def restated(task: SimpleNamespace, *, patches_order: bool) -> dict[str, list[float]]:
    """The benchmark on its raw files with scikit-learn and scipy alone; of this project only the features are taken.

    The benchmark takes a section's rows in the order of its patches, this project in that of its spots.
    """
    features = open_embeddings([task.embeddings])
    at = {(s, o): i for i, (s, o) in enumerate(zip(features.obs["sample"], features.obs["obs_id"], strict=True))}
    genes = json.loads((task.raw / "var_50genes.json").read_text())["genes"]
    found: dict[str, list[float]] = {}
    for fold in range(len(FOLDS)):
        x, y = {}, {}
        for side in ("train", "test"):
            split = pd.read_csv(task.raw / f"splits/{side}_{fold}.csv")
            xs, ys = [], []
            for _, entry in split.iterrows():
                with h5py.File(task.raw / entry["patches_path"]) as handle:
                    barcodes = [b.decode() for b in handle["barcode"][()].ravel()]
                counts = anndata.read_h5ad(task.raw / entry["expr_path"])
                barcodes = barcodes if patches_order else [b for b in counts.obs_names if b in set(barcodes)]
                counts = counts[barcodes][:, genes]
                ys.append(np.log1p(counts.X.toarray().astype(float)))
                xs.append(features.rows([at[entry["sample_id"], b] for b in barcodes]).astype(float))
            x[side], y[side] = np.concatenate(xs), np.concatenate(ys)
        scaler, pca = StandardScaler(), PCA(min(256, *x["train"].shape), random_state=1)
        a, b = pca.fit_transform(scaler.fit_transform(x["train"])), pca.transform(scaler.transform(x["test"]))
        ridge = Ridge(solver="lsqr", alpha=100 / (a.shape[1] * len(genes)), fit_intercept=False, max_iter=1000)
        predicted = ridge.fit(a, y["train"]).predict(b)
        for j, gene in enumerate(genes):
            found.setdefault(gene, []).append(float(pearsonr(y["test"][:, j], predicted[:, j])[0]))
    return found


@pytest.fixture(scope="module")
def toy(task: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[SimpleNamespace, pd.DataFrame]:
    bench = lay(task, tmp_path_factory.mktemp("toy"))
    return bench, scored(task, bench)


@pytest.mark.parametrize(("patches_order", "per_gene", "mean"), [(False, 1e-6, 1e-6), (True, 0.05, 0.01)])
def test_the_number_is_the_benchmarks(
    task: SimpleNamespace, toy: tuple[SimpleNamespace, pd.DataFrame], patches_order: bool, per_gene: float, mean: float
) -> None:
    rows = toy[1][(toy[1]["metric"] == "pcc_bench") & (toy[1]["variant"] == "published")]
    expected = restated(task, patches_order=patches_order)
    per_fold = rows[(rows["aggregation"] == "fold") & (rows["target"] != "")]
    for gene, values in expected.items():
        mine = per_fold[per_fold["target"] == gene].sort_values("fold")
        # lsqr stops at a tolerance of 1e-4: with few spots and an alpha of next to nothing, the order of rows moves
        # genes that nothing predicts by 0.02.
        np.testing.assert_allclose(mine["value"], values, rtol=0, atol=per_gene)
    whole = rows[(rows["aggregation"] == "cohort") & (rows["target"] == "")]
    wanted = np.mean([np.mean([expected[g][f] for g in expected]) for f in range(len(FOLDS))])
    assert whole["value"].item() == pytest.approx(wanted, abs=mean)
    assert (whole["n"].item(), whole["n_nan"].item()) == (len(FOLDS), 0)


def test_genes_that_follow_the_picture_are_found_and_noise_is_not(toy: tuple[SimpleNamespace, pd.DataFrame]) -> None:
    whole = toy[1][(toy[1]["aggregation"] == "cohort") & (toy[1]["variant"] == "inner")].set_index(["metric", "target"])
    for metric in ("cc", "pcc_bench"):
        assert whole.loc[[(metric, g) for g in FOLLOW], "value"].mean() > 0.6
        assert abs(whole.loc[[(metric, g) for g in NOISE], "value"].mean()) < 0.15


def test_both_aggregations_by_hand(toy: tuple[SimpleNamespace, pd.DataFrame]) -> None:
    data = anndata.read_h5ad(toy[0].folder / "inner.h5ad")
    truth, predicted = data.layers["labels"], np.asarray(data.X)
    by_section = {
        s: np.mean([pearsonr(truth[i, j], predicted[i, j])[0] for j in range(data.n_vars)])
        for s in SECTIONS
        for i in [np.flatnonzero((data.obs["sample"] == s).to_numpy())]
    }
    expected = np.mean([np.mean([by_section["H1"], by_section["H2"]]), by_section["H3"], by_section["H4"]])
    rows = toy[1][(toy[1]["variant"] == "inner") & (toy[1]["target"] == "") & (toy[1]["aggregation"] == "cohort")]
    rows = rows[rows["metric"].isin(["cc", "pcc_bench"])]
    whole = rows.set_index("metric")
    assert whole.loc["cc", "value"] == pytest.approx(expected, abs=1e-6)
    assert whole.loc["cc", "n"] == 3
    assert whole.loc["cc", "value"] != pytest.approx(whole.loc["pcc_bench", "value"], abs=1e-6)
    stamps = [json.loads(p)["aggregation"] for p in (whole.loc["cc", "protocol"], whole.loc["pcc_bench", "protocol"])]
    assert stamps == ["section>patient>cohort", "gene over the fold>genes>folds"]


@pytest.mark.parametrize("alpha", ["published", "inner"])
def test_rows_of_the_test_fold_change_nothing_that_is_fitted(
    task: SimpleNamespace, toy: tuple[SimpleNamespace, pd.DataFrame], tmp_path: Path, alpha: str
) -> None:
    changed = tmp_path / "e.h5"
    changed.write_bytes(task.embeddings.read_bytes())
    with h5py.File(changed, "a") as handle:
        tested = np.isin(handle["sample"].asstr()[:], FOLDS[1][1])
        features = handle["features"][:]
        features[tested] = features[tested][::-1] * 3 + 1
        handle["features"][:] = features
    states = []
    for embeddings in (task.embeddings, changed):
        bench = SimpleNamespace(**{**vars(toy[0]), "folder": tmp_path / embeddings.parent.name})
        bench.folder.mkdir(exist_ok=True)
        path = probed(SimpleNamespace(embeddings=embeddings), bench, alpha).with_suffix(".pt")
        states.append([load_models(path).fitted(f"published-{i}", -1).state()["coefficients"] for i in (0, 1)])
    np.testing.assert_array_equal(states[0][1], states[1][1])
    assert not np.array_equal(states[0][0], states[1][0])


# folds and panels ------------------------------------------------------------------------------------------------


def test_published_folds_are_taken_as_they_are(toy: tuple[SimpleNamespace, pd.DataFrame]) -> None:
    table, facts = read_folds(toy[0].folds)
    for i, (train, test) in enumerate(FOLDS):
        part = table[table["fold"] == f"published-{i}"]
        assert sorted(part.loc[part["role"] == "train", "sample"]) == train
        assert sorted(part.loc[part["role"] == "test", "sample"]) == test
    assert facts["published"] == "as published"


def test_a_patient_on_both_sides_of_a_published_fold_stops(task: SimpleNamespace, tmp_path: Path) -> None:
    bench = lay(task, tmp_path)
    tables = [tmp_path / "train_0.csv", tmp_path / "test_0.csv"]
    for path, samples in zip(tables, (["H1", "H3"], ["H2"]), strict=True):
        path.write_text("\n".join(["sample_id,patches_path,expr_path", *(f"{s},a,b" for s in samples)]) + "\n")
    with pytest.raises(InputError, check=has_code("folds-overlap"), match=r"P1 \(published-0"):
        make_folds(spec=bench.spec, target=bench.target, splits=tables, seed=0, out=tmp_path / "f.parquet")
    tables[1].write_text("sample_id\nH3\n")
    with pytest.raises(InputError, check=has_code("folds-published-both-sides"), match="H3"):
        read_splits(tables)
    tables[1].write_text("id\nH3\n")
    with pytest.raises(InputError, check=has_code("folds-published-columns")):
        read_splits(tables)


def test_what_is_missing_of_published_folds_is_told() -> None:
    folds = [{"train": ["A"], "test": ["B"]}, {"train": ["B", "C"], "test": ["A"]}]
    assert coverage(folds, ["A", "B"]) == "without C; never tested C"
    assert coverage([*folds, {"train": ["A"], "test": ["C", "B"]}], ["A", "B", "C"]) == "tested more than once B"


def test_a_panel_is_chosen_on_training_sections_unless_named(task: SimpleNamespace, tmp_path: Path) -> None:
    from histoloom.folds import roles_of

    bench = lay(task, tmp_path, split="leave_one_patient_out", panel={"genes": "heg", "k": 3})
    target = read_target(bench.target)
    assert set(target.outputs) == {*FOLLOW, *NOISE, "UNLISTED"}
    roles = roles_of(read_folds(bench.folds)[0], target.obs)
    counts = read_counts(bench.target)
    changed = counts.tolil()
    tested = np.flatnonzero(roles["patient-P3"] == "test")
    changed[np.ix_(tested, [target.outputs.index(g) for g in NOISE])] = 900
    section = target.obs["sample"].to_numpy()
    own = {fold: r for fold, r in roles.items() if fold == "patient-P3"}
    for on, same in (("train", True), ("dataset", False)):
        panel = {"genes": "heg", "k": 3, "selected_on": on}
        before, after = (
            panel_table(data, target.outputs, section, own, panel)["gene"].tolist()
            for data in (counts, changed.tocsr())
        )
        assert (before == after) is same
        assert before[0] == "UNLISTED"


def test_size_factor_sees_all_genes_of_the_section(task: SimpleNamespace, tmp_path: Path) -> None:
    path = lay(task, tmp_path).target
    plain, counts = read_target(path), read_counts(path)
    folder = tmp_path / "scaled"
    folder.mkdir()
    recipe = {"size_factor": "total", "target_sum": 1000}
    scaled = read_target(lay(task, folder, recipe=recipe).target)
    own = task.sections["H3"]
    name = own.names[4]
    at = plain.obs.index.get_loc(f"toy/H3/{name}")
    raw, genes = own.counts[4], [own.genes.index(g) for g in plain.outputs]
    np.testing.assert_allclose(plain.values[[at]].toarray().ravel(), np.log1p(raw[genes]))
    np.testing.assert_allclose(scaled.values[[at]].toarray().ravel(), np.log1p(raw[genes] / raw.sum() * 1000))
    np.testing.assert_array_equal(counts[[at]].toarray().ravel(), raw[genes])


def test_a_listed_gene_that_a_section_lacks_is_named(task: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "genes.json").write_text('{"genes": ["F0", "ABSENT"]}')
    files = {"samples": task.samples, "tiles": task.tiles, "genes": [tmp_path / "genes.json"]}
    with pytest.raises(InputError, check=has_code("panel-genes-missing")):
        make_target(spec=experiment(), files=files, out=tmp_path / "t.h5ad")
