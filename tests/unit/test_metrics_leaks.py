"""What a leak is worth: known answers on small worlds, tables against numbers formed anew, and what must not mix."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from modelbench import SMALL, lay, run
from modelworld import World, experiment, model_spec

from error_codes import has_code
from histoloom.artefacts import read_metadata, write_parquet
from histoloom.errors import InputError
from histoloom.folds import make_folds, read_folds
from histoloom.metrics import score_predictions
from histoloom.metrics.leakage import paired_rows
from histoloom.metrics.rows import read_metrics
from histoloom.metrics.uncertainty import sign_flip_p
from histoloom.models.linear import Ridge
from histoloom.models.mlp import MLP
from histoloom.report.leak_figures import draw_leaks
from histoloom.report.leaks import PAIRED_COLUMNS, TRANSFER_COLUMNS, read_leaks, write_leaks
from histoloom.report.published import NOT_COMPARABLE, compare
from histoloom.targets import make_target

SIX = {p: [f"{p}1", f"{p}2"] for p in "ABCDEF"}


def personal(world: World, patients: dict[str, list[str]], strength: float, offset: int = 0) -> World:
    """Let a patient's labels follow a map of the patient's own besides the common one: a memory pays, sight does not."""
    for number, (patient, sections) in enumerate(sorted(patients.items())):
        own = np.random.default_rng([7, ord(patient)]).normal(size=world.map.shape)
        for name in sections:
            noise = np.random.default_rng([number, offset, len(name)]).normal(size=world.labels[name].shape)
            x = world.features[name]
            # Per section the spread is one, so that the strength alone says what a memory is worth.
            world.labels[name] = 9.0 + x @ (world.map + strength * own) + 0.3 * noise
    return world


def score(bench, model, folder, name="m"):
    """Train, predict the comparison and score it; returns the metrics' path."""
    predictions, _ = run(bench, model, name, variant="leaks")
    out = folder / f"{name}.leaks.parquet"
    score_predictions(leakage=True,
        spec={**bench.spec, "name": "e"}, experiment="e", model=name, predictions=bench.folder / f"{name}.h5ad",
        target=bench.target, folds=bench.folds, out=out,
    )  # fmt: skip
    return out, predictions


def paired_of(tmp_path, strength, **given):
    world = personal(World(tmp_path / "w", patients=SIX), SIX, strength)
    bench = lay(world, tmp_path / "e", split="paired_leakage", draws=2, **given)
    return bench, *score(bench, model_spec("ridge", alpha=1e-3), tmp_path)


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """A world in which a memory pays: bench, metrics and predictions."""
    return paired_of(tmp_path_factory.mktemp("paired"), 1.0)


@pytest.fixture(scope="module")
def transferred(tmp_path_factory):
    """A transfer in which a memory pays: bench and metrics."""
    folder = tmp_path_factory.mktemp("transferred")
    bench = transfer_bench(folder, 1.0)
    return bench, score(bench, model_spec("ridge", alpha=1e-3), folder)[0]


def test_a_patients_own_map_has_a_leakage_effect_and_none_has_none(paired, tmp_path):
    found = {}
    for strength, (bench, out, _) in ((0.0, paired_of(tmp_path, 0.0)), (1.0, paired)):
        table, _, _ = read_leaks(bench.spec, [out])
        assert list(table.columns) == PAIRED_COLUMNS
        found[strength] = table.query("level == 'cohort'").iloc[0]
        sections = table.query("level == 'section'")
        assert (sections["n_leaked"] > 0).all()
        assert (sections["n_train"] == 10 * 61).all()  # ten sections of five others; three spots of 64 are no use
    assert abs(found[0.0]["difference"]) < 0.01
    assert found[1.0]["difference"] > 0.05
    assert found[1.0]["cc_with"] > found[1.0]["cc_without"]
    # D is flagged: its sections are shown and stay outside of means.
    assert found[1.0]["n_patients"] == 5
    assert set(table.loc[table["qc_flag"] != "", "patient"]) == {"D"}
    assert set(table.loc[table["level"] == "cohort", "patient"]) == {""}
    patients = table.query("level == 'patient' and qc_flag == ''")
    assert found[1.0]["difference"] == pytest.approx(patients["difference"].mean())
    assert found[1.0]["n_patients_higher"] == (patients["difference"] > 0).sum() == 5
    assert found[1.0]["p"] == pytest.approx(2 / 2**5) == pytest.approx(sign_flip_p(patients["difference"]))

    # The table's numbers, formed anew from the predictions.
    predictions = paired[2]

    def cc(fold):
        part = predictions[(predictions.obs["fold"] == fold).to_numpy()]
        pairs = zip(np.asarray(part.X).T, part.layers["labels"].T, strict=True)
        return np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])

    row = sections.set_index("sample").loc["E2"]
    assert row["cc_without"] == pytest.approx(cc("without-demo-E2"))
    assert row["cc_with"] == pytest.approx((cc("with-demo-E2-0") + cc("with-demo-E2-1")) / 2)
    assert row["cc_with_sd_draws"] == pytest.approx(abs(cc("with-demo-E2-0") - cc("with-demo-E2-1")) / 2**0.5)


def test_a_constant_that_one_side_has_learnt_scores_zero_in_the_pair(tmp_path):
    world = personal(
        World(tmp_path / "w", patients={"A": ["A1", "A2"], "B": ["B1"]}), {"A": ["A1", "A2"], "B": ["B1"]}, 0
    )
    world.labels["B1"][:, 2] = 4.0  # the model without a sibling has learnt a constant
    bench = lay(world, tmp_path / "e", split="paired_leakage", draws=2)
    out, _ = score(bench, model_spec("ridge"), tmp_path)
    rows = read_metrics([out])
    pairs = rows[rows["aggregation"].eq("section") & rows["metric"].isin(["cc_with", "cc_without", "leakage_effect"])]
    types = pairs[pairs["target"] != ""]
    assert types["value"].notna().all()
    learnt = types[types["target"] == "epithelial"].pivot(index="sample", columns="metric", values="value")
    assert (learnt["cc_without"] == 0).all()
    assert (learnt["leakage_effect"] == learnt["cc_with"]).all()
    table, _, _ = read_leaks(bench.spec, [out])
    assert (table.query("level == 'section'")["n_types"] == 4).all()
    assert (table.query("level == 'section'")["n_types_undefined"] == 0).all()
    cohort = table.query("level == 'cohort'").iloc[0]
    assert np.isnan(cohort["p"])  # one patient: points, no p


def test_a_type_that_one_draw_cannot_correlate_enters_no_pair():
    """The mean over draws is of the same draws for every type: half of a pair is none."""
    place = {"cohort": "c", "patient": "P", "sample": "P1", "qc_flag": "", "n": 9, "metric": "cc", "n_nan": 0}
    values = {("out", "T"): 0.1, ("in0", "T"): 0.4, ("in1", "T"): 0.6, ("out", "B"): 0.1, ("in0", "B"): np.nan,
              ("in1", "B"): 0.9}  # fmt: skip
    sections = pd.DataFrame([{**place, "fold": f, "target": t, "value": v} for (f, t), v in values.items()])
    folds = {"out": {"what": "without"}, "in0": {"what": "with"}, "in1": {"what": "with"}}
    rows = pd.concat(paired_rows(sections, folds), ignore_index=True)
    found = rows[(rows["aggregation"] == "section") & (rows["metric"] != "cc")].set_index(["metric", "target"])["value"]
    assert found["leakage_effect", "T"] == pytest.approx(0.4)
    assert found[:, "B"].isna().all()
    assert found["leakage_effect", ""] == pytest.approx(0.4)  # the mean over types is T's


def test_no_headline_and_no_published_value_is_made_of_a_leakage_effect(paired):
    bench, out, _ = paired
    rows = read_metrics([out])
    assert not ((rows["metric"] == "cc") & (rows["aggregation"] != "section")).any()
    stamp = json.loads(rows["protocol"].iloc[0])
    assert stamp["split"] == "paired_leakage"
    assert stamp["compared"]["other_sections"] == "all"
    assert "equal" in stamp["compared"]["matched"]
    assert set(stamp["overlap_patients"]) == set(SIX)
    status = compare({"source": "her2st"}, {"source": "her2st"}, SimpleNamespace(name="x"), stamp)
    assert (status.status, status.details) == (NOT_COMPARABLE, "leaks on purpose")
    with pytest.raises(InputError, check=has_code("fold-none")):
        run(bench, model_spec("ridge"), "again")


def test_folds_that_leak_without_saying_so_are_not_scored(paired, tmp_path):
    bench, _, _ = paired
    table, facts = read_folds(bench.folds)
    here = (table["fold"] == "without-demo-B1") & (table["sample"] == "B2")
    assert not here.any()
    sibling = (
        table[table["fold"] == "without-demo-B1"].iloc[[0]].assign(sample="B2", patient="B", obs_id=None, role="train")
    )
    write_parquet(pd.concat([table, sibling], ignore_index=True).astype("string"), tmp_path / "f.parquet", facts)
    with pytest.raises(InputError, check=has_code("folds-compared"), match=r"without-demo-B1.*B"):
        score_predictions(leakage=True,
            spec={**bench.spec, "name": "e"}, experiment="e", model="m", predictions=bench.folder / "m.h5ad",
            target=bench.target, folds=tmp_path / "f.parquet", out=tmp_path / "x.parquet",
        )  # fmt: skip


TRAIN = {"A": ["A1"], "B": ["B1"], "C": ["C1"], "E": ["E1"], "F": ["F1"], "G": ["G1"]}
TEST = {"A": ["X1"], "B": ["X2"], "Y": ["Y1"], "Z": ["Z1"]}


def transfer_bench(tmp_path, strength, **given):
    one = personal(World(tmp_path / "w", patients=TRAIN), TRAIN, strength)
    two = personal(World(tmp_path / "w", patients=TEST, cohort="other", seed=3), TEST, strength, offset=1)
    spec = experiment(
        split="transfer", on_overlap="allow", train_cohorts=["demo"], test_cohorts=["other"], train_seeds=[0], **given
    )
    bench = SimpleNamespace(folder=tmp_path, spec=spec, target=tmp_path / "t.h5ad", folds=tmp_path / "f.parquet")
    bench.panel, bench.more = None, {}
    files = {"samples": one.samples + two.samples, "tiles": one.tiles + two.tiles}
    make_target(spec=spec, files=files | {"labels": [one.write_labels(), two.write_labels()]}, out=bench.target)
    make_folds(spec=spec, target=bench.target, seed=0, out=bench.folds)
    bench.embeddings = {"enc": [*one.write_embeddings(), *two.write_embeddings()]}
    return bench


def columns(table, model="m"):
    cohort = table[(table["level"] == "cohort") & (table["model"] == model)].set_index(["tested", "training"])["cc"]
    return {"a": cohort["all_patients", "as_published"], "b": cohort["unshared_patients", "as_published"],
            "c": cohort["all_patients", "shared_dropped"], "random": cohort["all_patients", "random_drop"],
            "shared a": cohort["shared_patients", "as_published"], "shared c": cohort["shared_patients", "shared_dropped"],
            "shared random": cohort["shared_patients", "random_drop"]}  # fmt: skip


def test_a_transfer_as_published_flatters_where_patients_can_be_remembered(transferred, tmp_path):
    bench, out = transferred
    table, compared, _ = read_leaks(bench.spec, [out])
    assert list(table.columns) == TRANSFER_COLUMNS
    found = columns(table)
    assert found["a"] > found["b"] + 0.03
    assert found["a"] > found["c"] + 0.03
    # Losing as many other observations costs nothing: it was the patients, not the number.
    assert found["random"] > found["c"] + 0.03
    assert found["shared random"] > found["shared c"] + 0.05
    assert compared["shared_patients"] == ["A", "B"]
    sizes = {f: about["n_train"] for f, about in compared["folds"].items()}
    assert sizes["shared-dropped"] == sizes["random-drop-0"] == sizes["random-drop-2"] < sizes["transfer"]
    # (a) is the headline of the experiment itself, to the last digit.
    run(bench, model_spec("ridge", alpha=1e-3), "headline")
    score_predictions(
        spec={**bench.spec, "name": "e"}, experiment="e", model="m", predictions=bench.folder / "headline.h5ad",
        target=bench.target, folds=bench.folds, out=tmp_path / "headline.parquet",
    )  # fmt: skip
    rows = read_metrics([tmp_path / "headline.parquet"])
    assert set(rows["fold"]) <= {"", "transfer"}
    (cc,) = rows.query("metric == 'cc' and aggregation == 'cohort' and target == '' and against == 'labels'")["value"]
    assert cc == found["a"]


def test_without_a_memory_nothing_flatters(tmp_path):
    bench = transfer_bench(tmp_path, 0.0)
    out, _ = score(bench, model_spec("ridge", alpha=1e-3), tmp_path)
    found = columns(read_leaks(bench.spec, [out])[0])
    assert max(found.values()) - min(found.values()) < 0.02


@pytest.mark.parametrize("kind", ["mlp", "ridge"])
def test_everyones_model_takes_nothing_from_the_choices_of_a_comparison(tmp_path, monkeypatch, kind):
    """Folds of a comparison are made to choose otherwise; the model of everyone follows the fold that counts."""
    choose, train = Ridge._best_alpha, MLP._train

    def choose_other(self, data, features, labels):
        assert choose(self, data, features, labels) in (0.1, 1e3)
        return 0.1 if data.name == "transfer" else 1e3

    def train_other(self, word, members, table, job):
        trained = train(self, word, members, table, job)
        for member, one in zip(members, trained, strict=True):
            if member.val is not None:
                one.epochs = 1 if member.fold == "transfer" else 3
        return trained

    monkeypatch.setattr(Ridge, "_best_alpha", choose_other)
    monkeypatch.setattr(MLP, "_train", train_other)
    bench = transfer_bench(tmp_path, 1.0, selection="val_patient", draws=3)
    _, path = run(bench, model_spec(kind, **(SMALL if kind == "mlp" else {"alphas": [0.1, 1e3]})), predict=False)
    choices = {name.partition(".")[0]: choice for name, choice in read_metadata(path)["choices"].items()}
    what = "epochs" if kind == "mlp" else "alpha"
    assert choices["random-drop-0"][what] != choices["transfer"][what]
    assert choices["all"][what] == choices["transfer"][what]


@pytest.mark.parametrize("kind", ["paired", "transfer"])
def test_tables_and_figure_are_written_and_are_the_same_twice(paired, transferred, tmp_path, kind):
    bench, out, *_ = transferred if kind == "transfer" else paired
    files = [out, score(bench, model_spec("coordinates"), tmp_path, "c")[0]]
    spec = {**bench.spec, "models": ["c", "m"], "title": "A title"}
    written = {}
    for turn in ("one", "two"):
        out = {role: tmp_path / f"{turn}.{role}" for role in ("csv", "md", "html")}
        write_leaks(spec=spec, metrics=files, out=out)
        draw_leaks(spec=spec, metrics=files, out=tmp_path / f"{turn}.png")
        written[turn] = {role: path.read_bytes() for role, path in out.items()}
        written[turn]["png"] = (tmp_path / f"{turn}.png").read_bytes()
    assert written["one"] == written["two"]
    text = written["one"]["md"].decode()
    words = {
        "paired": ["E2", "n train, both", "sign-flip test over patients p = 0.0625", "5 patients"],
        "transfer": ["(b) unshared patients only", "random drop of equal size", "A, B", "(c) shared dropped"],
    }
    for word in words[kind]:
        assert word in text, text
    table = pd.read_csv(tmp_path / "one.csv")
    assert list(table["model"].unique()) == ["c", "m"]
    assert len(written["one"]["png"]) > 10_000
