"""Published tables: they fit their schema, agree with themselves and each other, and print as not run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from histoloom.metrics.rows import assemble
from histoloom.report.paper_tables import paper_cells, paper_page
from histoloom.report.published import load_published, weights_of
from histoloom.schemas import check, load_schema

FOLDER = Path(__file__).resolve().parents[2] / "resources" / "published"
DATA_SETS = ("IDC-LymphNode", "SKCM", "READ", "COAD", "IDC", "PSC")
HALF = 0.00005 * (1 + 1e-9)


def table(paper: str, number: int) -> dict[str, dict[str, float]]:
    content = yaml.safe_load((FOLDER / f"{paper}_table{number}.yaml").read_text())
    return {row["id"]: row["values"] for row in content["rows"]}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*_table*.yaml")), ids=lambda p: p.stem)
def test_every_table_fits_the_schema_and_has_a_value_in_every_cell(path):
    content = yaml.safe_load(path.read_text())
    check(content, load_schema("published"), str(path))
    assert path.stem == f"{content['paper']}_table{content['table']}"
    columns = {column["id"] for column in content["columns"]}
    names = [row["id"] for row in content["rows"]]
    assert len(names) == len(set(names))
    assert all(set(row["values"]) == columns for row in content["rows"])
    cards = yaml.safe_load((FOLDER.parent / "encoders.yaml").read_text())
    if content["paper"] != "cellsymphony":  # scGPT is no image encoder
        assert {card for row in content["rows"] for card in row["encoders"]} <= set(cards)


def test_all_tables_of_the_three_papers_and_the_leaderboard_are_there():
    found = {p.stem for p in FOLDER.glob("*_table*.yaml")}
    wanted = {
        f"{p}_table{i}" for p, n in (("decomposition", 3), ("cmrcnet", 5), ("cellsymphony", 2)) for i in range(1, n + 1)
    }
    assert found == wanted | {"hest_bench_table1"}


@pytest.mark.parametrize(("number", "expected"), [(1, 36), (2, 72)])
def test_f1_follows_from_precision_and_recall_within_rounding(number, expected):
    checked = 0
    for values in table("cellsymphony", number).values():
        for name in (key.removesuffix("_p") for key in values if key.endswith("_p")):
            p, r, f1 = values[f"{name}_p"], values[f"{name}_r"], values[f"{name}_f1"]
            low, high = (2 * (p + d) * (r + d) / (p + r + 2 * d) for d in (-0.005, 0.005))
            assert low - 0.005 <= f1 <= high + 0.005, (number, values)
            checked += 1
    assert checked == expected


@pytest.mark.parametrize(("row", "model"), [("contrastive only", "BLEEP"), ("mse mask 0.5 image", "CMRCNet-50")])
def test_the_ablation_is_the_mean_over_data_sets(row, model):
    first, fifth = table("cmrcnet", 1), table("cmrcnet", 5)
    for column in ("heg", "hvg", "marker"):
        mean = np.mean([first[f"{d} {model}"][column] for d in DATA_SETS])
        # A mean of rounded values, printed cut or rounded to four decimals.
        assert fifth[row][column] == pytest.approx(mean, abs=2 * HALF + 0.00005), (row, column)


def test_what_two_tables_or_the_abstract_repeat_agrees():
    first, fourth, fifth = table("cmrcnet", 1), table("cmrcnet", 4), table("cmrcnet", 5)
    for d in DATA_SETS:
        own = fourth[f"{d} CMRCNet-500"]
        assert {key: first[f"{d} CMRCNet-500"][key] for key in own} == own
    gains = [fifth["mse mask 0.5 image"][c] / fifth["contrastive only"][c] - 1 for c in ("heg", "hvg", "marker")]
    assert gains == pytest.approx([0.0627, 0.0611, 0.1126], abs=6e-5)
    assert first["COAD CMRCNet-50"]["heg"] / first["COAD STNet"]["heg"] - 1 == pytest.approx(0.2571, abs=6e-5)
    assert first["SKCM CMRCNet-50"]["marker"] / first["SKCM STNet"]["marker"] - 1 == pytest.approx(3.3057, abs=6e-4)


def test_more_genes_are_harder_and_best_genes_are_in_order():
    for name, values in table("cmrcnet", 2).items():
        assert values["heg150"] > values["heg250"], name
    third = table("cmrcnet", 3)
    for d in DATA_SETS:
        for method in ("stnet", "histogene", "bleep", "cmrcnet"):
            ranks = [third[f"{d} rank {i}"][method] for i in range(1, 6)]
            assert ranks == sorted(ranks, reverse=True), (d, method)


def test_tables_without_a_run_print_every_cell_as_not_run():
    for content in load_published(FOLDER, "cmrcnet").values():
        cells = paper_cells(content, {"experiments": {}}, assemble([]))
        assert set(cells["status"]) == {"not run"}
        assert len(cells) == len(content.rows) * len(content.columns)
        assert "not run" in paper_page(content, cells).markdown()
    assert "0.3156 published" in paper_page(*_first("cmrcnet")).markdown()


def _first(paper: str):
    content = load_published(FOLDER, paper)[1]
    return content, paper_cells(content, {"experiments": {}}, assemble([]))


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ({"encoders": {}, "weights": "imagenet"}, "hub"),
        ({"encoders": {}, "weights": "random"}, "random"),
        ({"encoders": {}, "weights": "w/resnet18.pth"}, "local"),
        ({"encoders": {}, "weights": None}, "none"),
        ({"encoders": {"uni": {"card": "uni", "revision": "abc"}}, "weights": None}, "hub"),
        ({"encoders": {"uni": {"card": "uni", "revision": "random:0"}}, "weights": None}, "random"),
    ],
)
def test_weights_are_those_of_encoders_or_of_the_model_that_reads_pixels(protocol, expected):
    """A pixel model on ImageNet weights stands next to its published row; one on random weights does not."""
    assert weights_of(protocol) == expected
