"""Classes from tables of one's own, one per section; log counts as features of cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from modelworld import World, experiment
from scipy.sparse import csr_array

from error_codes import has_code
from histoloom.embeddings.log_counts import LogCounts
from histoloom.errors import InputError
from histoloom.genes import GeneMatcher
from histoloom.targets import make_target, read_target

CLASSES = np.array(["a", "b", "c", "a"])


def tables(world: World, folder: Path, **columns) -> list[Path]:
    """One table per section, rows in another order than the cells."""
    made = []
    for number, name in enumerate(world.features):
        ids = world.ids()[::-1]
        frame = pd.DataFrame({"cell_id": ids, "label": CLASSES[(np.arange(len(ids)) + number) % 4]})
        for column, values in columns.items():
            frame[column] = values(frame) if callable(values) else values
        made.append(folder / f"{name}.csv")
        frame.to_csv(made[-1], index=False)
    return made


def build(world: World, folder: Path, files: list[Path], **given):
    entry = experiment(labels=None, target={"kind": "cell_class", "table": "{sample}.csv", **given})
    reads = {"samples": world.samples, "tiles": world.tiles, "table": files}
    make_target(spec=entry, files=reads, out=folder / "t.h5ad")
    return read_target(folder / "t.h5ad")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "w", patients={"A": ["A1", "A2"], "B": ["B1"]}, side=5)


def test_each_section_takes_its_own_table(world: World, tmp_path: Path) -> None:
    made = build(world, tmp_path, tables(world, tmp_path))
    for number, name in enumerate(world.features):
        rows = made.obs[made.obs["sample"] == name]
        at = np.array([world.ids()[::-1].index(i) for i in rows["obs_id"]])
        assert list(rows["label"]) == list(CLASSES[(at + number) % 4])


def test_unsure_labels_are_left_out(world: World, tmp_path: Path) -> None:
    confidence = lambda frame: np.where(frame["label"] == "b", 0.4, 0.9)  # noqa: E731
    files = tables(world, tmp_path, confidence=confidence)
    assert set(build(world, tmp_path, files).obs["label"]) == {"a", "b", "c"}
    assert set(build(world, tmp_path, files, min_confidence=0.5).obs["label"]) == {"a", "c"}


def test_a_class_of_one_patient_is_named_dropped_or_kept(world: World, tmp_path: Path) -> None:
    files = tables(world, tmp_path)
    frame = pd.read_csv(files[2])
    frame.loc[:4, "label"] = "rare"  # patient B's only section
    frame.to_csv(files[2], index=False)
    with pytest.raises(InputError, check=has_code("class-one-patient"), match="rare"):
        build(world, tmp_path, files)
    dropped = build(world, tmp_path, files, one_patient="drop")
    kept = build(world, tmp_path, files, one_patient="keep")
    assert set(kept.obs["label"]) - set(dropped.obs["label"]) == {"rare"}
    assert len(kept.obs) - len(dropped.obs) == 5


def test_tables_that_cannot_be_used(world: World, tmp_path: Path) -> None:
    good = tables(world, tmp_path)
    text = good[1].read_text()

    def refused(content: str, code: str) -> None:
        good[1].write_text(content)
        with pytest.raises(InputError, check=has_code(code)):
            build(world, tmp_path, good)

    first = text.splitlines()[1]
    refused(text + first + "\n", "class-table-twice")
    refused("cell,label\n" + first + "\n", "class-table")
    refused("cell_id,label\nnobody,a\nno,b\n", "class-table-ids")
    refused("cell_id,label,confidence\n" + first + ",1.2\n", "class-table-confidence")
    refused("cell_id,label,confidence\n" + first + ",high\n", "class-table-confidence")


def test_log_counts_are_shares_of_the_genes_alone_in_one_order() -> None:
    genes = ["B", "NegControlProbe_00001", "A"]
    counts = csr_array(np.array([[3, 50, 1], [0, 7, 0]]))
    encoder = LogCounts()
    features = encoder.encode_counts(counts, genes, ["x", "y"], GeneMatcher(None))
    assert encoder.feature_names == ["A", "B"]
    np.testing.assert_allclose(features, [np.log1p([2500, 7500]), [0, 0]], rtol=1e-6)
