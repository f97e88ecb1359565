"""Summary tables, published tables and the status of every cell."""

from __future__ import annotations

import copy
import json
import re

import jsonschema
import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, make_obs, make_values, write_inputs

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.metrics import score_predictions
from histoloom.metrics.moran import FORMS
from histoloom.metrics.rows import read_metrics
from histoloom.report.coloc import FORM_NAMES
from histoloom.report.efficiency import add_ratios, read_records
from histoloom.report.paper_tables import map_similarity, paper_cells, paper_page, write_paper_table
from histoloom.report.published import DEVIATES, NOT_COMPARABLE, NOT_RUN, SAME, compare, load_published, run_stamp
from histoloom.report.results import read_results
from histoloom.report.summary import write_summary
from histoloom.schemas import load_schema

MLP = {
    "kind": "mlp",
    "encoders": {
        "u": {"card": "uni", "revision": "abc", "weights_sha256": "1"},
        "c": {"card": "conch_v1", "revision": "def", "weights_sha256": "2"},
    },
}  # fmt: skip
ROLES = {"csv": "s.csv", "md": "s.md", "html": "s.html"}


def run(folder, model="ridge", *, protocol=None, cohort="demo", patients="ABC", qc_flags=None, noise=1.0, spec=SPEC):
    folder.mkdir(parents=True, exist_ok=True)
    obs = make_obs({(p, f"{p}{i}"): 30 for p in patients for i in (1, 2)}, cohort=cohort, qc_flags=qc_flags)
    values = make_values(obs)
    values[(obs["sample"] == "A1").to_numpy(), 3] = 1.0
    rng = np.random.default_rng(0)
    seeds = {s: values + rng.normal(scale=noise, size=values.shape) for s in (0, 1)}
    paths = write_inputs(folder / "in", obs, values, (seeds[0] + seeds[1]) / 2, seeds=seeds, protocol=protocol)
    score_predictions(spec=spec, experiment="loo", model=model, out=folder / f"{model}.parquet", **paths)
    return folder / f"{model}.parquet"


def summary(folder, files, spec=SPEC):
    folder.mkdir(parents=True, exist_ok=True)
    write_summary(read_results("loo", spec, files), {role: folder / name for role, name in ROLES.items()})
    return pd.read_csv(folder / "s.csv", keep_default_na=False)


def test_summary_shows_every_aggregation_and_counts(tmp_path):
    file = run(tmp_path, qc_flags={"C1": "low resolution", "C2": "low resolution"})
    table = summary(tmp_path, [file])
    rows = read_metrics([file])
    plain = table[table["qc_flag"] == ""].iloc[0]
    headline = rows.query("metric == 'cc' and aggregation == 'cohort' and target == '' and train_seed == -1")[
        "value"
    ].iloc[0]
    assert float(plain["cc"]) == pytest.approx(headline, abs=1e-6)
    assert (plain["n_patients"], plain["n_sections"], plain["n_types"], plain["n_nan"]) == (2, 4, 5, 1)
    assert (plain["cc_low"], plain["cc_high"]) == ("", "")  # two patients make no interval
    seeds = rows.query("metric == 'cc' and target == '' and train_seed >= 0")["value"]
    assert float(plain["cc_seed_sd"]) == pytest.approx(seeds.std(), abs=1e-6)
    flagged = table[table["qc_flag"] == "low resolution"].iloc[0]
    assert (flagged["n_patients"], flagged["n_sections"]) == (1, 2)
    text = (tmp_path / "s.md").read_text()
    assert "kept out of all means" in text
    assert re.search(r"\| labels +\| ridge +\| Lost +\| A1 +\|", text)


def test_five_patients_have_an_interval(tmp_path):
    table = summary(tmp_path, [run(tmp_path, patients="ABCDE")])
    low, value, high = (float(table[c].iloc[0]) for c in ("cc_low", "cc", "cc_high"))
    assert low < value < high


def test_tables_are_the_same_bytes_and_in_the_configs_order(tmp_path):
    spec = {**SPEC, "models": ["ridge", "another"]}
    files = [run(tmp_path / "x", "another", noise=3.0), run(tmp_path / "x", "ridge")]
    summary(tmp_path / "a", files, spec)
    table = summary(tmp_path / "b", files[::-1], spec)
    assert table["model"].tolist() == ["ridge", "another"]
    for name in ROLES.values():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_table_of_another_experiment_is_refused(tmp_path):
    file = run(tmp_path)
    with pytest.raises(InputError, check=has_code("report-no-rows")):
        read_results("other", SPEC, [file])


def test_models_that_see_test_labels_say_so(tmp_path):
    summary(tmp_path, [run(tmp_path, protocol={"kind": "section_mean", "encoders": {}, "uses_test_labels": True})])
    assert "ridge (sees test labels)" in (tmp_path / "s.md").read_text()


# published tables ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(repo):
    return load_published(repo / "resources" / "published", "decomposition")


def test_published_files_follow_their_schema_and_are_complete(repo):
    import yaml

    for path in sorted((repo / "resources" / "published").glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        jsonschema.validate(content, load_schema("published"))
        ids = [column["id"] for column in content["columns"]]
        assert len(set(ids)) == len(ids)
        for row in content["rows"]:
            assert set(row["values"]) == set(ids), f"{path}: {row['id']}"
            for column in content["columns"]:
                text = f"{row['values'][column['id']]:.{column['decimals']}f}"
                assert float(text) == row["values"][column["id"]]


def seconds(text: str) -> int:
    minutes, rest = re.fullmatch(r"(\d+)m (\d+)s", text).groups()
    return 60 * int(minutes) + int(rest)


def test_published_values_agree_with_what_the_paper_says_about_them(published):
    table = published[3]
    for row in table.content["rows"]:
        for column, text in row["printed"].items():
            want = int(text.removesuffix("MB")) if column == "gpu_mb" else seconds(text)
            assert row["values"][column] == want
    ours, theirs = table.rows["CONCH+UNI_MLP"].values, table.rows["Hist2Cell"].values
    assert round((theirs["gpu_mb"] - ours["gpu_mb"]) / 1024) == 43  # "approximately 43GB"
    saved = np.mean([theirs[f"time{i}_s"[:5] + "_s"] - ours[f"time{i}_s"[:5] + "_s"] for i in range(1, 5)]) / 3600
    assert 4.5 < saved < 4.7  # "over 4.5 hours per run"
    for column in published[2].columns:  # "the lowest L1 and highest CC scores in both directions"
        values = {name: row.values[column["id"]] for name, row in published[2].rows.items()}
        best = min(values.values()) if column["better"] == "lower" else max(values.values())
        assert values["CONCH+UNI_MLP"] == best
    assert all(row.values["her2st_cosine"] > row.values["stnet_cosine"] for row in published[1].rows.values())


def paper_spec(source="simulated", cohort="demo", **label):
    entry = {**SPEC, "models": ["mlp_cu"], "sources": {cohort: source}, "cohorts": [cohort]}
    entry["label_spec"] = {"method": "cell2location", "reference": "hbca", **label}
    return {"paper": "decomposition", "experiments": {"loo": entry}}


def full_stamp(table, column):
    """A run that did everything the paper states."""
    stamp = {key: value for key, value in table.stamp(column).items() if value != "unstated"}
    return {**stamp, "n_sections": stamp.get("n_sections", 67)}


def test_status_follows_the_stamps(published):
    table = published[1]
    column = table.columns[0]
    row, stamp = table.rows["CONCH+UNI_MLP"], full_stamp(table, table.columns[0])
    assert compare(table.stamp(column), stamp, row, {}).status == SAME
    assert "selection" in compare(table.stamp(column), stamp, row, {}).details
    told = compare(table.stamp(column), {**stamp, "n_patients": 2, "tile_um_per_px": 0.5}, row, {})
    assert told.status == DEVIATES
    assert told.details == "tile um per px 0.5 instead of native; n patients 2 instead of 8"
    for change in ({"source": "stnet"}, {"label_method": "nnls"}, {"reference": "small"}, {"weights": "random"}):
        assert compare(table.stamp(column), {**stamp, **change}, row, {}).status == NOT_COMPARABLE, change
    assert compare(table.stamp(column), stamp, None, {}).status == NOT_COMPARABLE
    assert compare(table.stamp(column), stamp, row, {"shuffle_labels": "within_section"}).status == NOT_COMPARABLE
    simulated = compare(table.stamp(column), {**stamp, "source": "simulated"}, row, {})
    assert (simulated.status, simulated.details) == (NOT_COMPARABLE, "simulated cohort")
    silent = {key: value for key, value in stamp.items() if key != "split"}
    assert compare(table.stamp(column), silent, row, {}).status == DEVIATES  # a run must state what the paper states


def test_a_row_is_found_by_what_ran_and_not_by_its_name(published):
    table = published[2]
    assert table.find("mlp", ["uni", "conch_v1"]).name == "CONCH+UNI_MLP"
    assert table.find("mlp", ["uni"]).name == "UNI_MLP"
    assert table.find("ridge", ["uni"]) is None
    assert table.find("mlp", ["uni2"]) is None


def test_random_weights_are_never_the_papers_row(published):
    protocol = copy.deepcopy(MLP)
    assert run_stamp(protocol, {}, "x")["weights"] == "hub"
    protocol["encoders"]["u"]["revision"] = "random-seed-0"
    assert run_stamp(protocol, {}, "x")["weights"] == "random"


def test_simulated_runs_stand_alone_and_the_papers_rows_stay(tmp_path, published):
    rows = read_metrics([run(tmp_path, "mlp_cu", protocol=MLP)])
    cells = paper_cells(published[1], paper_spec(), rows)
    ours = cells[cells["row"] == "mlp_cu"]
    assert set(ours["form"]) == {"diag1_row", "nodiag_row"}
    assert set(ours["status"]) == {NOT_COMPARABLE}
    assert set(ours["details"]) == {"simulated cohort"}
    assert ours["published"].isna().all()
    assert ours["difference"].isna().all()
    assert ours["value"].notna().all()
    theirs = cells[cells["status"] == NOT_RUN]
    assert len(theirs) == 8
    assert set(theirs["details"]) == {"gated weights", "not in this run"}


def test_a_run_with_the_name_of_a_row_of_the_paper_has_a_line_of_its_own(tmp_path, published):
    cells = paper_cells(published[1], paper_spec(), read_metrics([run(tmp_path, "mlp_cu", protocol=MLP)]))
    named = cells.assign(row=cells["row"].replace("mlp_cu", "Hist2Cell"))
    paper_page(published[1], named).write(named, {e: tmp_path / f"t.{e}" for e in ("csv", "md", "html")})
    lines = [line for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("| Hist2Cell (")]
    ours, theirs = (next(line for line in lines if word in line.split("|")[1]) for word in ("mlp on", "paper; not run"))
    assert "0.81" not in ours
    assert "0.81" in theirs


def test_maps_are_compared_in_every_form(tmp_path):
    rows = read_metrics([run(tmp_path, "mlp_cu", protocol=MLP)])
    shown = map_similarity(paper_spec(), rows)
    assert shown[["model", "experiment", "cohort"]].to_numpy().tolist() == [["mlp_cu", "loo", "demo"]]
    measured = rows.query("aggregation == 'cohort' and against == 'labels' and train_seed == -1")
    measured = measured.set_index(["metric", "gene_set"])["value"]
    for form, name in FORM_NAMES.items():
        for metric in ("cosine", "correlation"):
            assert float(shown[f"{metric}, {name}"].iloc[0]) == pytest.approx(
                measured[f"coloc_{metric}", form], abs=1e-3
            )
    assert set(FORM_NAMES) == set(FORMS)


def test_a_run_on_two_patients_deviates_and_prints_no_difference(tmp_path, published):
    rows = read_metrics([run(tmp_path, "mlp_cu", protocol=MLP, cohort="her2st", patients="BC")])
    cells = paper_cells(published[1], paper_spec("her2st", "her2st"), rows)
    ours = cells[cells["row"] == "mlp_cu"]
    assert set(ours["status"]) == {DEVIATES}
    assert ours["details"].str.contains("n patients 2 instead of 8").all()
    assert set(ours["published"]) == {0.82, 0.87}
    assert ours["difference"].isna().all()
    left = cells[(cells["status"] == NOT_RUN) & (cells["row"] == "CONCH+UNI_MLP")]
    assert left["column"].str.startswith("STNet").all()  # its her2st cells did run


def test_only_the_same_prints_a_difference(tmp_path, published):
    table = copy.deepcopy(published[1])
    for column in table.content["columns"][:2]:
        column["stamp"] = {"n_patients": 2, "n_sections": 4, "n_observations": 120}
    protocol = {**MLP, "tiles_spec": {"size_px": 224, "um_per_px": "native"}}
    rows = read_metrics([run(tmp_path, "mlp_cu", protocol=protocol, cohort="her2st", patients="BC")])
    ours = paper_cells(table, paper_spec("her2st", "her2st"), rows).query("row == 'mlp_cu'")
    assert set(ours["status"]) == {SAME}
    assert ours["difference"].to_numpy() == pytest.approx((ours["value"] - ours["published"]).to_numpy())
    assert ours["details"].str.contains("diagonal").all()
    other = paper_cells(table, paper_spec("her2st", "her2st", reference="small"), rows).query("row == 'mlp_cu'")
    assert set(other["status"]) == {NOT_COMPARABLE}


def test_transfer_runs_fill_table_two(tmp_path, published):
    spec = {**SPEC, "split": "transfer", "train_cohorts": ["h"], "test_cohorts": ["s"], "cohorts": []}
    rows = read_metrics([run(tmp_path, "mlp_cu", protocol=MLP, cohort="s", spec=spec)])
    entry = {**spec, "models": ["mlp_cu"], "sources": {"h": "her2st", "s": "stnet"}}
    entry["label_spec"] = {"method": "cell2location", "reference": "hbca"}
    cells = paper_cells(published[2], {"paper": "decomposition", "experiments": {"loo": entry}}, rows)
    ours = cells[cells["row"] == "mlp_cu"]
    assert set(ours["column"]) == {"her2st to STNet, L1", "her2st to STNet, CC"}
    assert set(ours["published"]) == {0.57, 0.32}
    assert set(paper_cells(published[1], {"paper": "x", "experiments": {"loo": entry}}, rows)["status"]) == {NOT_RUN}


def record(folder, model, seconds, hardware="cpu, 1 thread"):
    path = folder / "efficiency" / "loo" / f"{model}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"stage": "models", "seconds": seconds, "peak_rss_mb": 100.0, "peak_gpu_mb": None,
                                "items": 3, "items_per_s": 1.0, "device": "cpu", "hardware": hardware}))  # fmt: skip
    return path


def test_ratios_stay_within_one_hardware(tmp_path):
    files = [record(tmp_path, "a", 10.0), record(tmp_path, "b", 40.0), record(tmp_path, "c", 1.0, "another box")]
    got = add_ratios(read_records(files), []).set_index("model")
    assert got["ratio"].to_dict() == {"a": 0.25, "b": 1.0, "c": 1.0}
    assert got["ratio_to"].to_dict() == {"a": "b", "b": "b", "c": "c"}
    assert add_ratios(read_records(files), ["a"]).set_index("model")["ratio_to"].to_dict()["b"] == "a"


def test_all_paper_tables_are_written(tmp_path, repo):
    file = run(tmp_path, "mlp_cu", protocol=MLP)
    for i in (1, 2, 3):
        out = {role: tmp_path / f"table{i}.{role}" for role in ("csv", "md", "html")}
        write_paper_table(
            spec=paper_spec(), number_of_table=i, metrics=[file], efficiency=[record(tmp_path, "mlp_cu", 7.0)],
            published_dir=repo / "resources" / "published", out=out,
        )  # fmt: skip
        assert all(path.stat().st_size for path in out.values())
    third = pd.read_csv(tmp_path / "table3.csv", keep_default_na=False)
    assert third.loc[0, ["row", "status", "published"]].tolist() == ["mlp_cu", NOT_COMPARABLE, ""]
    assert (third["status"] == NOT_RUN).sum() == 20
    assert "not run: gated weights" in (tmp_path / "table1.md").read_text()
    assert "23004" in (tmp_path / "table3.html").read_text()


def test_a_broken_record_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(InputError, check=has_code("efficiency-record")):
        read_records([path])
