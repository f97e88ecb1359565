"""Folds: who is where, for every split; the guard; validation patients; bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from modelworld import World, experiment

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.folds import build_folds, control_folds, fold_ids, make_folds, read_folds, roles_of
from histoloom.folds.splits import COLUMNS, sections_of
from histoloom.targets import make_target, read_target

SPLITS = ["leave_one_patient_out", "leave_one_sample_out", "transfer", "random", "spatial_block"]


def sheet(sections: dict[str, str], side: int = 6, pitch: float = 200.0) -> pd.DataFrame:
    """Observations of sections given as {"cohort/sample": patient}."""
    frames = []
    for key, patient in sections.items():
        cohort, sample = key.split("/")
        row, col = np.divmod(np.arange(side**2), side)
        frames.append(
            pd.DataFrame(
                {
                    "cohort": cohort,
                    "sample": sample,
                    "patient": patient,
                    "obs_id": [f"{r}x{c}" for r, c in zip(row, col, strict=True)],
                    "array_row": row,
                    "array_col": col,
                    "pitch_um": pitch,
                }
            )
        )
    obs = pd.concat(frames)
    obs.index = obs["cohort"] + "/" + obs["sample"] + "/" + obs["obs_id"]
    return obs


FOUR = {"one/A1": "A", "one/A2": "A", "one/B1": "B", "one/C1": "C", "two/Z1": "Z", "two/Z2": "Z", "two/Y1": "Y"}


def spec_of(split: str, **given):
    sides = {"train_cohorts": ["one"], "test_cohorts": ["two"]} if split == "transfer" else {"cohorts": ["one", "two"]}
    return experiment(split=split, **{"block_um": 400, "n_folds": 3, **sides, **given})


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(4))
def test_no_patient_on_both_sides_over_random_sheets(split, seed):
    """Whatever the sheet, a fold file never trains on a tested patient unless overlap is allowed, and tests all once."""
    rng = np.random.default_rng(seed)
    refused = []
    for _ in range(6):
        n = int(rng.integers(2, 9))
        people = [f"P{i}" for i in range(rng.integers(1, 6))]
        sections = {f"{'one' if i % 2 else 'two'}/S{i}": str(rng.choice(people)) for i in range(n)}
        obs = sheet(sections, side=4)
        for on_overlap in ("fail", "drop", "allow"):
            selection = str(rng.choice(["fixed", "val_patient", "inner_cv"]))
            try:
                table, facts = build_folds(spec_of(split, on_overlap=on_overlap, selection=selection), obs, seed)
            except InputError as error:
                refused.append(error.problem)
                continue
            names = fold_ids(spec_of(split, on_overlap=on_overlap), sections_of(obs))
            found = list(dict.fromkeys(table["fold"]))
            compared = control_folds(facts["compared"])
            assert found == [name for name in names if name in found]
            # Folds of a comparison may be missing where nobody is left to drop; test_folds_leaks.py looks at them.
            assert set(names) - set(found) <= {name for name in names if "drop" in name}
            roles = {fold: role for fold, role in roles_of(table, obs).items() if fold not in compared}
            assert (roles["all"] == "train").all()
            for fold, role in roles.items():
                people_of = {r: set(obs["patient"].to_numpy()[role == r]) for r in ("train", "val", "test")}
                assert people_of["train"]
                if fold == "all":
                    continue
                assert people_of["test"]
                shared = (people_of["train"] | people_of["val"]) & people_of["test"]
                assert shared <= set(facts["overlap_patients"])
                if on_overlap != "allow":
                    assert not shared
                assert len(people_of["val"]) <= 1
            tested = sum((role == "test").astype(int) for fold, role in roles.items() if fold != "all")
            expected = (obs["cohort"] == "two").to_numpy() if split == "transfer" else 1
            assert (tested == expected).all()
    assert all("patient" in problem for problem in refused)


def test_leave_one_patient_out_tests_a_person_of_two_cohorts_once():
    table, facts = build_folds(
        spec_of("leave_one_patient_out"), sheet({"one/A1": "A", "two/Z9": "A", "two/B1": "B"}), 0
    )
    fold = table[(table["fold"] == "patient-A") & (table["role"] == "test")]
    assert set(fold["cohort"] + "/" + fold["sample"]) == {"one/A1", "two/Z9"}
    assert facts["overlap"] == []
    assert facts["n_patients"]["patient-A"] == {"test": 1, "train": 1}


def test_fold_names():
    rows = sections_of(sheet(FOUR))
    assert fold_ids(spec_of("leave_one_patient_out"), rows) == [
        "patient-A",
        "patient-B",
        "patient-C",
        "patient-Z",
        "patient-Y",
        "all",
    ]
    assert fold_ids(spec_of("leave_one_sample_out"), rows)[:2] == ["sample-one-A1", "sample-one-A2"]
    assert fold_ids(spec_of("transfer"), rows) == ["transfer", "all"]
    assert fold_ids(spec_of("random"), rows) == ["random-0", "random-1", "random-2", "all"]
    assert fold_ids(spec_of("spatial_block"), rows) == ["block-0", "block-1", "block-2", "all"]


@pytest.mark.parametrize("split", ["leave_one_sample_out", "paired_leakage"])
def test_names_that_two_sections_would_share_are_refused(split):
    obs = sheet({"a/b-c": "P", "a-b/c": "P", "a/d": "Q", "a/e": "Q"})
    spec = experiment(split=split, cohorts=["a", "a-b"])
    with pytest.raises(InputError, check=has_code("folds-names")):
        fold_ids(spec, sections_of(obs))  # when the workflow is planned
    with pytest.raises(InputError, check=has_code("folds-names")) as caught:
        build_folds(spec, obs, 0)
    assert "a/b-c and a-b/c" in caught.value.problem
    assert len(fold_ids(spec, sections_of(obs)[1:])) > 1


SHARED = {"one/A1": "A", "one/B1": "B", "one/C1": "C", "one/D1": "D", "two/Z1": "A", "two/Y1": "Y"}


def test_overlap_fail_names_patient_and_sections():
    with pytest.raises(InputError) as caught:
        build_folds(spec_of("transfer"), sheet(SHARED), 0)
    for word in ("A (transfer", "one/A1", "two/Z1", "on_overlap: drop", "on_overlap: allow"):
        assert word in str(caught.value)
    assert "B" not in str(caught.value).split("Remedy")[0].replace("both", "")


def test_overlap_drop_and_allow():
    table, facts = build_folds(spec_of("transfer", on_overlap="drop"), sheet(SHARED), 0)
    role = table[table["fold"] == "transfer"].set_index("sample")["role"].to_dict()
    assert role == {"A1": "dropped", "B1": "train", "C1": "train", "D1": "train", "Z1": "test", "Y1": "test"}
    assert facts["overlap"] == [
        {"fold": "transfer", "patient": "A", "train": ["one/A1"], "test": ["two/Z1"], "action": "dropped from training"}
    ]
    assert facts["n_patients"]["transfer"] == {"dropped": 1, "test": 2, "train": 3}
    table, facts = build_folds(spec_of("transfer", on_overlap="allow"), sheet(SHARED), 0)
    assert table.loc[(table["fold"] == "transfer") & (table["sample"] == "A1"), "role"].item() == "train"
    assert facts["overlap_patients"] == ["A"]
    assert facts["overlap"][0]["action"] == "allowed"


@pytest.mark.parametrize("split", ["leave_one_sample_out", "random", "spatial_block"])
def test_splits_that_share_patients_say_so(split):
    with pytest.raises(InputError, check=has_code("folds-overlap"), match="on_overlap: allow"):
        build_folds(spec_of(split), sheet(FOUR), 0)
    _, facts = build_folds(spec_of(split, on_overlap="allow"), sheet(FOUR), 0)
    assert "A" in facts["overlap_patients"]


def test_a_patient_is_dropped_in_the_fold_that_tests_them_and_nowhere_else():
    obs = sheet({"one/A1": "A", "one/A2": "A", "one/B1": "B", "one/C1": "C"})
    table, _ = build_folds(spec_of("leave_one_sample_out", cohorts=["one"], on_overlap="drop"), obs, 0)
    roles = {fold: rows.set_index("sample")["role"].to_dict() for fold, rows in table.groupby("fold")}
    assert roles["sample-one-A1"] == {"A1": "test", "A2": "dropped", "B1": "train", "C1": "train"}
    assert roles["sample-one-B1"] == {"A1": "train", "A2": "train", "B1": "test", "C1": "train"}


def test_validation_patients_are_not_tested_too_and_folds_draw_their_own():
    spec = spec_of("transfer", on_overlap="allow", selection="val_patient")
    chosen = {build_folds(spec, sheet(SHARED), seed)[1]["validation"]["transfer"] for seed in range(20)}
    assert chosen == {"B", "C", "D"}  # A is tested
    every = {name.replace("two", "one"): name[-2] for name in SHARED} | {"two/Z1": "A", "two/Y1": "B", "two/X1": "C"}
    every = {name: every[name] for name in ("one/A1", "one/B1", "one/C1", "two/Z1", "two/Y1", "two/X1")}
    assert build_folds(spec, sheet(every), 0)[1]["validation"]["transfer"] in set("ABC")  # where all are, one of them
    people = [f"P{i}" for i in range(9)]
    leave_out = spec_of("leave_one_patient_out", selection="val_patient")
    facts = build_folds(leave_out, sheet({f"one/{p}": p for p in people}, side=2), 0)[1]
    place = {sorted(set(people) - {p}).index(facts["validation"][f"patient-{p}"]) for p in people}
    assert len(place) > 2


def test_no_training_or_test_patient_left():
    with pytest.raises(InputError, check=has_code("folds-side-empty"), match="training"):
        build_folds(spec_of("leave_one_patient_out"), sheet({"one/A1": "A", "one/A2": "A"}), 0)
    with pytest.raises(InputError, check=has_code("folds-side-empty"), match=r"training.*dropped: A"):
        build_folds(spec_of("transfer", on_overlap="drop"), sheet({"one/A1": "A", "two/Z1": "A"}), 0)
    with pytest.raises(InputError, check=has_code("folds-side-empty"), match=" test "):
        build_folds(spec_of("transfer"), sheet({"one/A1": "A", "one/B1": "B"}), 0)
    with pytest.raises(InputError, check=has_code("folds-side-empty"), match="training"):
        build_folds(spec_of("transfer"), sheet({"two/A1": "A"}), 0)


def test_wrong_use_of_sides():
    with pytest.raises(InputError, check=has_code("transfer-cohort-twice")):
        build_folds(spec_of("transfer", test_cohorts=["one", "two"]), sheet(FOUR), 0)
    with pytest.raises(InputError, check=has_code("split-sides")):
        build_folds(spec_of("leave_one_patient_out", train_cohorts=["one"]), sheet(FOUR), 0)


def test_validation_patient():
    table, facts = build_folds(spec_of("leave_one_patient_out", selection="val_patient"), sheet(FOUR), 0)
    for fold, rows in table.groupby("fold"):
        val = set(rows.loc[rows["role"] == "val", "patient"])
        assert len(val) == (0 if fold == "all" else 1)
        if val:
            # whole: no section of the validation patient trains
            assert not val & set(rows.loc[rows["role"] == "train", "patient"])
            assert facts["validation"][fold] in val
    chosen = {
        tuple(
            build_folds(spec_of("leave_one_patient_out", selection="val_patient"), sheet(FOUR), s)[1][
                "validation"
            ].items()
        )
        for s in range(8)
    }
    assert len(chosen) > 1  # drawn by the seed


def test_too_few_patients_for_validation_is_said():
    _, facts = build_folds(
        spec_of("leave_one_patient_out", selection="val_patient"), sheet({"one/A1": "A", "one/B1": "B"}), 0
    )
    assert facts["validation"]["patient-A"] == "none: 1 training patient, fixed epochs and alpha"
    table, facts = build_folds(
        spec_of("leave_one_patient_out", selection="val_patient"), sheet({"one/A": "A", "one/B": "B", "one/C": "C"}), 0
    )
    assert "val" not in set(table["role"])
    assert facts["validation"]["patient-A"].startswith("none: 2 training patients")


def test_spatial_blocks_are_squares_with_a_buffer():
    spec = spec_of("spatial_block", on_overlap="allow", block_um=600, n_folds=2, buffer_um=250)
    obs = sheet({"one/A1": "A", "one/B1": "B"}, side=12)
    table, _ = build_folds(spec, obs, 3)
    table = table[table["fold"] != "all"].merge(obs, on=["cohort", "sample", "patient", "obs_id"])
    for (_, sample), rows in table.groupby(["fold", "sample"]):
        # 3 x 3 spots of 200 um per block of 600 um, and one block is on one side
        assert set(rows.groupby("block").size()) == {9}
        assert (rows.groupby("block")["role"].agg(lambda r: (set(r) == {"test"}) or "test" not in set(r))).all()
        test = rows.loc[rows["role"] == "test", ["array_row", "array_col"]].to_numpy()
        for role in ("train", "dropped"):
            other = rows.loc[rows["role"] == role, ["array_row", "array_col"]].to_numpy()
            nearest = np.sqrt(((other[:, None] - test[None]) ** 2).sum(-1)).min(1) * 200
            assert ((nearest >= 250) == (role == "train")).all(), sample
    with pytest.raises(InputError, check=has_code("blocks-too-few"), match="one/A1"):
        build_folds(spec_of("spatial_block", on_overlap="allow", block_um=9000), obs, 0)
    obs.loc[obs["sample"] == "B1", "pitch_um"] = np.nan
    with pytest.raises(InputError, check=has_code("blocks-pitch"), match="one/B1"):
        build_folds(spec, obs, 0)


def test_blocks_are_laid_in_um_and_a_spot_exactly_at_the_buffer_trains():
    spec = spec_of("spatial_block", on_overlap="allow", block_um=400, n_folds=2, buffer_um=100)
    obs = sheet({"one/A1": "A", "one/B1": "B"}, side=12, pitch=100.0)
    table, _ = build_folds(spec, obs, 3)
    table = table[table["fold"] != "all"]
    assert set(table.groupby(["fold", "sample", "block"]).size()) == {16}
    assert "dropped" not in set(table["role"])  # the nearest are 100 um apart, some not to a float's last digit
    wider, _ = build_folds({**spec, "buffer_um": 100.1}, obs, 3)
    assert (wider["role"] == "dropped").any()


@pytest.mark.parametrize("split", ["random", "spatial_block"])
def test_sections_of_one_size_are_not_dealt_alike(split):
    obs = sheet({"one/A1": "A", "one/B1": "B", "two/A1": "C"}, side=12)
    table, _ = build_folds(spec_of(split, on_overlap="allow"), obs, 7)
    tested = table[(table["role"] == "test") & (table["fold"] == table["fold"].iloc[0])]
    deals = {frozenset(rows["obs_id"]) for _, rows in tested.groupby(["cohort", "sample"])}
    assert len(deals) == 3


@pytest.mark.parametrize("split", ["random", "spatial_block"])
def test_a_sections_folds_do_not_depend_on_other_sections(split):
    spec = spec_of(split, on_overlap="allow")
    both, _ = build_folds(spec, sheet({"one/A1": "A", "one/B1": "B"}), 7)
    alone, _ = build_folds(spec, sheet({"one/B1": "B"}), 7)
    pick = both[(both["sample"] == "B1") & (both["fold"] != "all")].reset_index(drop=True)
    pd.testing.assert_frame_equal(pick, alone[alone["fold"] != "all"].reset_index(drop=True))
    other, _ = build_folds(spec, sheet({"one/B1": "B"}), 8)
    assert not other.equals(alone)


def test_random_folds_are_of_equal_size():
    table, _ = build_folds(spec_of("random", on_overlap="allow", n_folds=5), sheet({"one/A1": "A", "one/B1": "B"}), 0)
    sizes = table[table["role"] == "test"].groupby(["fold", "sample"]).size()
    assert sizes.max() - sizes.min() <= 1


def test_file_round_trip(tmp_path):
    world = World(tmp_path)
    files = {"samples": world.samples, "tiles": world.tiles, "labels": [world.write_labels()]}
    make_target(spec=experiment(), files=files, out=tmp_path / "t.h5ad")
    target = read_target(tmp_path / "t.h5ad")
    for split in ("leave_one_patient_out", "random"):
        spec = experiment(split=split, on_overlap="allow", selection="val_patient")
        for name in ("a", "b"):
            make_folds(spec=spec, target=tmp_path / "t.h5ad", seed=3, out=tmp_path / f"{name}.parquet")
        assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
        table, metadata = read_folds(tmp_path / "a.parquet")
        built, facts = build_folds(spec, target.obs, 3)
        assert list(table.columns) == COLUMNS
        assert (table["obs_id"].isna() == (table["fold"] == "all")).all() or split == "leave_one_patient_out"
        assert list(dict.fromkeys(table["fold"])) == fold_ids(spec, sections_of(target.obs))
        for fold, role in roles_of(built, target.obs).items():
            np.testing.assert_array_equal(role, roles_of(table, target.obs)[fold])
        assert {k: v for k, v in metadata.items() if k != "identity"} == facts


def test_folds_of_another_target_are_refused():
    obs = sheet(FOUR)
    table, _ = build_folds(spec_of("random", on_overlap="allow"), obs, 0)
    with pytest.raises(InputError, check=has_code("folds-other-target")):
        roles_of(table, obs.iloc[5:])
    doubled = pd.concat([table, table.iloc[:1]])
    with pytest.raises(InputError, check=has_code("folds-other-target")):
        roles_of(doubled, obs)
