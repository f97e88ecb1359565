"""Folds that measure a leakage effect: who trains, sizes matched exactly, clean where they say so, never part of a headline."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from modelworld import experiment

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.folds import build_folds, check_compared, control_folds, fold_ids, roles_of
from histoloom.folds.splits import sections_of


def sheet(sections: dict[str, tuple[str, int]]) -> pd.DataFrame:
    """Observations of sections given as {"cohort/sample": (patient, n)}."""
    frames = []
    for key, (patient, n) in sections.items():
        cohort, sample = key.split("/")
        row, col = np.divmod(np.arange(n), 10)
        ids = [f"{r}x{c}" for r, c in zip(row, col, strict=True)]
        frames.append(
            pd.DataFrame({"cohort": cohort, "sample": sample, "patient": patient, "obs_id": ids,
                          "array_row": row, "array_col": col, "pitch_um": 200.0})
        )  # fmt: skip
    obs = pd.concat(frames)
    obs.index = obs["cohort"] + "/" + obs["sample"] + "/" + obs["obs_id"]
    return obs


# her2st's four sections with images: B has no sibling, and C has more siblings' spots than B has spots.
TWO = {"h/B4": ("B", 28), "h/C2": ("C", 19), "h/C3": ("C", 18), "h/C4": ("C", 17)}
# Patient A is in both cohorts: E1 and Z1 are siblings although their cohorts differ.
MANY = {"h/A1": ("A", 30), "h/A2": ("A", 23), "h/B1": ("B", 41), "h/B2": ("B", 12), "h/B3": ("B", 33),
        "h/E1": ("E", 25), "s/Z1": ("E", 21), "s/Y1": ("Y", 37)}  # fmt: skip


def measured(**given):
    return experiment(split="paired_leakage", cohorts=["h", "s"], **given)


def transfer(**given):
    return experiment(
        split="transfer", **{"train_cohorts": ["h"], "test_cohorts": ["s"], "on_overlap": "allow", **given}
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("other_sections", ["all", "one"])
@pytest.mark.parametrize("sections", [TWO, MANY], ids=["two patients", "many"])
def test_pairs_test_the_same_and_train_on_as_many(sections, other_sections, seed):
    """Counted from the roles alone, not through the module's own check."""
    obs, spec = sheet(sections), measured(other_sections=other_sections, draws=4)
    table, facts = build_folds(spec, obs, seed)
    roles = roles_of(table, obs)
    assert list(roles) == fold_ids(spec, sections_of(obs))
    assert "all" not in roles  # nobody may apply it
    section, patient = (obs["cohort"] + "/" + obs["sample"]).to_numpy(), obs["patient"].to_numpy()
    paired = {key for key, (p, _) in sections.items() if sum(q == p for q, _ in sections.values()) > 1}
    assert set(facts["compared"]["unpaired"]) == set(sections) - paired
    for key in paired:
        stem, who = key.replace("/", "-"), sections[key][0]
        without = roles[f"without-{stem}"]
        assert set(patient[without == "train"]) == set(patient) - {who}
        assert (without == "train").sum() == (patient != who).sum()
        mixtures, leaked = set(), set()
        for draw in range(4):
            role = roles[f"with-{stem}-{draw}"]
            np.testing.assert_array_equal(role == "test", section == key)
            np.testing.assert_array_equal(role == "test", without == "test")
            train = role == "train"
            assert train.sum() == (without == "train").sum()
            n_siblings = {s: int((train & (section == s)).sum()) for s in sections if sections[s][0] == who}
            assert n_siblings.pop(key) == 0
            assert sum(n_siblings.values()) > 0
            assert sum(n > 0 for n in n_siblings.values()) == (1 if other_sections == "one" else len(n_siblings))
            # The mixture of leave-section-out: others and siblings lose the same share.
            chosen = [s for s, n in n_siblings.items() if n]
            pool = sum(sections[s][1] for s in chosen)
            others = (patient != who).sum()
            assert abs(sum(n_siblings.values()) - others * pool / (others + pool)) <= 1
            mixtures.add(tuple(np.flatnonzero(train)))
            leaked |= set(chosen)
            assert facts["compared"]["folds"][f"with-{stem}-{draw}"]["n_leaked"] == sum(n_siblings.values())
        assert len(mixtures) == 4
        assert len(leaked) == len(n_siblings)  # draws take all siblings in turn
    assert {item["action"] for item in facts["overlap"]} == {"deliberate"}
    assert {item["fold"] for item in facts["overlap"]} == {fold for fold in roles if fold.startswith("with-")}


def test_draws_do_not_depend_on_sections_of_other_patients_pairs():
    """A fold's own random stream: one more draw leaves the others as they were, another seed does not."""
    obs = sheet(MANY)
    few, many = (roles_of(build_folds(measured(draws=d), obs, 3)[0], obs) for d in (2, 5))
    other = roles_of(build_folds(measured(draws=2), obs, 4)[0], obs)
    assert all((few[fold] == many[fold]).all() for fold in few)
    assert any((few[fold] != other[fold]).any() for fold in few)


def test_nothing_to_price_and_nobody_to_hold_against():
    with pytest.raises(InputError, check=has_code("leakage-no-pair")):
        build_folds(measured(), sheet({"h/A1": ("A", 9), "h/B1": ("B", 9)}), 0)
    with pytest.raises(InputError, check=has_code("folds-side-empty"), match="training"):
        build_folds(measured(), sheet({"h/A1": ("A", 9), "h/A2": ("A", 9)}), 0)


@pytest.mark.parametrize(
    ("given", "word"),
    [({"paper": "decomposition"}, "published"), ({"selection": "val_patient"}, "selection: fixed"),
     ({"on_overlap": "allow"}, "own rule"), ({"draws": 0}, "draws")],
)  # fmt: skip
def test_what_does_not_go_with_a_price_is_refused(given, word):
    with pytest.raises(InputError, check=has_code("schema-value"), match=word):
        measured(**given)


def spoil(table: pd.DataFrame, fold: str, sample: str, role: str, one: bool = False) -> pd.DataFrame:
    """Give a section, or one observation of it, another role in a fold."""
    table = table.copy()
    here = (table["fold"] == fold) & (table["sample"] == sample)
    if one:
        row = table[here & table["obs_id"].isna()].iloc[[0]].assign(obs_id="0x0", role=role)
        return pd.concat([table, row], ignore_index=True)
    table.loc[here, "role"] = role
    return table


def test_a_fold_file_that_leaks_where_it_must_not_fails():
    obs = sheet(MANY)
    table, facts = build_folds(measured(draws=2), obs, 0)
    compared = facts["compared"]
    check_compared(compared, table, obs)
    sibling = (
        table[(table["fold"] == "without-h-E1")].iloc[[0]].assign(cohort="s", sample="Z1", patient="E", obs_id="0x0")
    )
    leaks = {
        "one observation of a sibling": pd.concat([table, sibling.assign(role="train")], ignore_index=True),
        "the tested section trains": spoil(table, "without-h-B1", "B1", "train", one=True),
        "the tested section validates": spoil(table, "without-h-B1", "B1", "val", one=True),
        "another size": spoil(table, "without-h-A1", "B2", "dropped", one=True),
        "another test side": spoil(table, "with-h-A1-0", "A1", "dropped", one=True),
        "the section itself": spoil(table, "with-h-A1-0", "A1", "train", one=True),
        "no leak where one is meant": spoil(table, "with-h-A1-1", "A2", "dropped"),
    }
    for what, bad in leaks.items():
        with pytest.raises(InputError, check=has_code("folds-compared"), match="fold 'with"):
            check_compared(compared, bad, obs)
            pytest.fail(what)


SHARED = {"h/A1": ("A", 20), "h/B1": ("B", 31), "h/C1": ("C", 18), "h/C2": ("C", 9), "h/D1": ("D", 26), "h/F1": ("F", 29),
          "s/Z1": ("A", 15), "s/Y1": ("Y", 12), "s/X1": ("C", 14)}  # fmt: skip


@pytest.mark.parametrize("selection", ["fixed", "val_patient"])
def test_drops_of_a_transfer(selection):
    obs, spec = sheet(SHARED), transfer(selection=selection, draws=5)
    table, facts = build_folds(spec, obs, 1)
    roles = roles_of(table, obs)
    assert list(roles) == fold_ids(spec, sections_of(obs))
    patient = obs["patient"].to_numpy()
    training = {fold: patient[role == "train"] for fold, role in roles.items()}
    draws = [f"random-drop-{i}" for i in range(5)]
    assert set(training["shared-dropped"]) & {"A", "C"} == set()
    for fold in ("shared-dropped", *draws):
        for same in ("test", "val"):
            np.testing.assert_array_equal(roles[fold] == same, roles["transfer"] == same)
        assert len(training[fold]) == len(training["transfer"]) - (20 + 18 + 9)
    for fold in draws:
        assert (training[fold] == "A").sum() == 20
        assert (training[fold] == "C").sum() == 27
        # Whole patients are dropped but for one, who loses the remainder.
        parts = [(training[fold] == p).sum() not in {0, n} for p, n in (("B", 31), ("D", 26), ("F", 29))]
        assert sum(parts) <= 1
    assert len({tuple(training[fold]) + tuple(roles[fold]) for fold in draws}) > 1
    assert control_folds(facts["compared"]) == {"shared-dropped", *draws}
    assert facts["overlap_patients"] == ["A", "C"]
    assert {item["fold"] for item in facts["overlap"]} == {"transfer"}


def test_drops_are_made_only_where_there_is_something_to_compare():
    obs = sheet(SHARED)
    for given in ({"draws": 0}, {"on_overlap": "drop"}):
        table, facts = build_folds(transfer(**given), obs, 0)
        assert set(table["fold"]) == {"transfer", "all"}
        assert facts["compared"] == {}
    clean = sheet({"h/A1": ("A", 20), "s/Z1": ("Z", 15)})
    assert build_folds(transfer(), clean, 0)[1]["compared"] == {}
    # Unshared patients are fewer than the shared: no random drop of equal size leaves the shared in.
    small = sheet({"h/A1": ("A", 20), "h/B1": ("B", 12), "s/Z1": ("A", 15)})
    assert list(build_folds(transfer(), small, 0)[1]["compared"]["folds"]) == ["transfer", "shared-dropped"]
    everyone = sheet({"h/A1": ("A", 20), "s/Z1": ("A", 15)})
    assert list(build_folds(transfer(), everyone, 0)[1]["compared"]["folds"]) == ["transfer"]


def test_a_comparison_of_a_transfer_that_is_not_what_it_says_fails():
    obs = sheet(SHARED)
    table, facts = build_folds(transfer(), obs, 1)
    check_compared(facts["compared"], table, obs)
    for bad in (
        spoil(table, "shared-dropped", "C2", "train"),
        spoil(table, "shared-dropped", "B1", "dropped"),
        spoil(table, "random-drop-1", "A1", "dropped"),
        spoil(table, "random-drop-2", "Z1", "dropped"),
    ):
        with pytest.raises(InputError, check=has_code("folds-compared"), match=r"fold '(shared|random)-drop"):
            check_compared(facts["compared"], bad, obs)


def test_other_folds_are_what_they_were_without_the_comparison():
    obs = sheet(SHARED)
    for selection in ("fixed", "val_patient"):
        plain, _ = build_folds(transfer(selection=selection, draws=0), obs, 2)
        more, _ = build_folds(transfer(selection=selection, draws=3), obs, 2)
        kept = more[more["fold"].isin(["transfer", "all"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept, plain)
