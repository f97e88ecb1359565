"""The content guard: the same section under another name is found, siblings are not accused."""

from __future__ import annotations

import io
import json

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.sparse import csr_matrix

from error_codes import has_code
from histoloom.artefacts import read_metadata, write_parquet
from histoloom.audit import audit_sections
from histoloom.audit.compare import PICTURE, TWIN, Vocabulary, twin_distance
from histoloom.audit.fingerprint import make_fingerprint, picture_hashes
from histoloom.audit.guard import compare_sections, sides_of
from histoloom.errors import InputError
from histoloom.genes import load_gene_table
from label_inputs import write_gene_table
from simulation_fixtures import sheet_row, sheet_rows, simulated_spec


def drawn(rng: np.random.Generator, profile: np.ndarray, spots: int, depth: float) -> np.ndarray:
    """Counts of spots that share an expression profile and differ in depth and a little in state."""
    state = np.exp(0.4 * rng.normal(size=(spots, len(profile))))
    mean = profile * state * depth * rng.lognormal(0, 0.4, size=(spots, 1))
    return rng.poisson(mean)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    profile = rng.gamma(0.4, 1.0, size=1500)
    profile /= profile.sum()
    genes = [f"GENE{i}" for i in range(1500)]
    first, second = (drawn(rng, profile, 150, 2000) for _ in range(2))
    return genes, first, second


def verdict(a, b):
    evidence = Vocabulary([a, b]).compare(0, 1)
    return evidence.verdict, evidence


def test_equal_expression_measured_twice_is_one_per_gene_and_the_same_reads_are_zero():
    """The statistic's mean is 1 whatever the depth; a thinned re-annotation stays far below the limit."""
    rng = np.random.default_rng(1)
    mean = rng.gamma(0.3, 2.0, size=4000)
    x, y = rng.poisson(mean, size=(200, 4000)), rng.poisson(mean, size=(200, 4000))
    found = twin_distance(x[:, None, :].astype(float), y[:, None, :].astype(float))
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    assert found.min() > 3 * TWIN
    assert twin_distance(x[:1, None].astype(float), x[:1, None].astype(float)) == 0
    reannotated = rng.binomial(x, 0.97)
    assert twin_distance(x[:, None].astype(float), reannotated[:, None].astype(float)).max() < TWIN / 2


def test_spots_dropped_shuffled_and_genes_renamed(world):
    genes, counts, _ = world
    rng = np.random.default_rng(2)
    kept = rng.permutation(len(counts))[:-2]
    names = [f"ENSG{i:011d}.7" if i % 5 < 3 else name for i, name in enumerate(genes)]
    order = rng.permutation(len(genes))
    a = make_fingerprint("x", "A", "p1", counts, genes)
    b = make_fingerprint("y", "B", "p2", counts[kept][:, order], [names[i] for i in order])
    found, evidence = verdict(a, b)
    assert found == "same"
    assert evidence.genes_shared > 0.9
    assert evidence.n_genes == 600
    assert evidence.totals_shared > 0.9


def test_all_names_foreign_totals_still_tell(world):
    genes, counts, _ = world
    a = make_fingerprint("x", "A", "p1", counts, genes)
    b = make_fingerprint("y", "B", "p2", counts[1:], [f"ENSG{i:011d}" for i in range(len(genes))])
    found, evidence = verdict(a, b)
    assert found == "same"
    assert np.isnan(evidence.genes_shared)


def test_genes_filtered_and_totals_gone_counts_still_tell(world):
    genes, counts, _ = world
    a = make_fingerprint("x", "A", "p1", counts, genes)
    b = make_fingerprint("y", "B", "p2", counts[:, 300:], genes[300:])
    found, evidence = verdict(a, b)
    assert evidence.totals_shared < 0.1
    assert found == "same"


def test_sisters_with_one_profile_are_not_accused(world):
    genes, counts, other = world
    found, evidence = verdict(
        make_fingerprint("x", "A", "p", counts, genes), make_fingerprint("x", "B", "p", other, genes)
    )
    assert found == "different"
    assert evidence.genes_shared == 0
    assert evidence.totals_shared < 0.1


def test_a_gene_table_joins_ids_to_old_symbols(world, tmp_path):
    genes, counts, _ = world
    table = load_gene_table(write_gene_table(tmp_path / "hgnc.tsv", genes))
    ids = [f"ENSG{i:011d}" for i in range(len(genes))]
    versions = [f"{name}.3" for name in ids[200:]]
    a = make_fingerprint("x", "A", "p1", counts, genes, table)
    b = make_fingerprint("y", "B", "p2", counts[:, 200:], versions, table)
    assert a.genes == ids
    assert verdict(a, b)[1].genes_shared > 0.9
    # without it the two have no gene in common
    a, b = make_fingerprint("x", "A", "p1", counts, genes), make_fingerprint("y", "B", "p2", counts[:, 200:], versions)
    assert verdict(a, b)[1].n_genes == 0


def test_old_symbols_against_ids_stop_the_guard_by_their_genes(world, tmp_path, caplog):
    genes, counts, _ = world
    rng = np.random.default_rng(3)
    table = write_gene_table(tmp_path / "hgnc.tsv", genes)
    # another data set kept 1,300 genes under ids, so that no spot has the totals it had
    ids = [f"ENSG{i:011d}" for i in range(200, 1500)]
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    write_section(paths[0], "x", "A", "p1", counts, genes)
    write_section(paths[1], "y", "B", "p2", counts[rng.permutation(150)][:, 200:], ids)
    with pytest.raises(InputError, check=has_code("section-on-both-sides"), match="1300"):
        audit_sections(spec={}, samples=paths, genes=table, out=tmp_path / "o.parquet")
    audit_sections(spec={}, samples=paths, out=tmp_path / "o.parquet")
    assert "compared by totals and pictures only" in caplog.text
    assert read_metadata(tmp_path / "o.parquet")["genes_matched_by"] == "name"


def tissue(seed: int) -> np.ndarray:
    """A slide: a blob of tissue with structure on glass."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(240, 200)), 18)
    fine = gaussian_filter(rng.normal(size=(240, 200)), 4)
    inside = field > np.quantile(field, 0.45)
    image = np.full((240, 200, 3), 243, np.uint8)
    image[inside] = np.clip(np.array([200, 130, 175]) + 260 * fine[inside][:, None], 40, 235).astype(np.uint8)
    return image


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float((picture_hashes(a)[0] != picture_hashes(b)).mean(axis=1).min())


def test_pictures_survive_turning_mirroring_scaling_and_compression_and_others_do_not():
    pictures = [tissue(seed) for seed in range(6)]
    for image in pictures:
        for turned in (np.rot90(image), np.rot90(image, 2), image[:, ::-1], image.transpose(1, 0, 2)):
            assert distance(image, jpeg(turned, 30)) < PICTURE / 2
        small = np.asarray(Image.fromarray(image).resize((130, 156)))
        assert distance(image, jpeg(small, 50)) < PICTURE
    different = [distance(a, b) for i, a in enumerate(pictures) for b in pictures[i + 1 :]]
    assert min(different) > 2 * PICTURE


def test_a_slide_without_pixels_says_nothing():
    assert picture_hashes(np.full((50, 60, 3), 255, np.uint8)).size == 0


def write_section(path, cohort, sample, patient, counts, genes, image=None):
    obs = pd.DataFrame(index=[f"{i}x0" for i in range(len(counts))])
    data = anndata.AnnData(csr_matrix(counts.astype(np.int32)), obs=obs, var=pd.DataFrame(index=list(genes)))
    if image is not None:
        data.uns["spatial"] = {sample: {"images": {"lowres": image, "hires": image}}}
    data.uns["histoloom"] = json.dumps(
        {"cohort": cohort, "sample": sample, "patient": patient, "identity": {"sha256": sample * 8}}
    )
    data.write_h5ad(path)
    return path


@pytest.fixture
def leaking(world, tmp_path):
    genes, counts, other = world
    paths = [
        write_section(tmp_path / "a.h5ad", "x", "A1", "p1", counts, genes, tissue(0)),
        write_section(tmp_path / "b.h5ad", "x", "A2", "p1", other, genes, tissue(1)),
        write_section(tmp_path / "c.h5ad", "y", "Q", "p9", counts[1:], genes, jpeg(np.rot90(tissue(0)), 40)),
    ]
    return paths, tmp_path


def test_the_guard_stops_and_names_both_sections_and_the_evidence(leaking):
    paths, tmp = leaking
    with pytest.raises(
        InputError, check=has_code("section-on-both-sides"), match=r"x/A1 \(patient p1\).*y/Q \(patient p9\)"
    ) as caught:
        audit_sections(spec={}, samples=paths, out=tmp / "out.parquet")
    assert "A2" not in str(caught.value)
    assert not (tmp / "out.parquet").exists()


def test_the_guard_reports_when_told_to_and_sides_come_from_the_folds(leaking):
    paths, tmp = leaking
    folds = pd.DataFrame(
        [
            {"fold": "transfer", "cohort": c, "sample": s, "patient": p, "obs_id": None, "block": None, "role": r}
            for c, s, p, r in [("x", "A1", "p1", "train"), ("x", "A2", "p1", "test"), ("y", "Q", "p9", "train")]
        ]
        + [
            {
                "fold": "all",
                "cohort": "y",
                "sample": "Q",
                "patient": "p9",
                "obs_id": None,
                "block": None,
                "role": "test",
            }
        ]
    )
    write_parquet(folds, tmp / "folds.parquet", {"identity": {"sha256": "f"}})
    # Both copies train: nothing is leaked into a test.
    audit_sections(spec={}, samples=paths, folds=tmp / "folds.parquet", out=tmp / "out.parquet")
    table = pd.read_parquet(tmp / "out.parquet")
    assert table.set_index(["first", "second"])["verdict"].to_dict() == {
        ("x/A1", "x/A2"): "different", ("x/A1", "y/Q"): "same", ("x/A2", "y/Q"): "different",
    }  # fmt: skip
    folds.loc[folds["sample"] == "Q", "role"] = "test"
    assert set(sides_of(folds)) == {("x/A1", "x/A2"), ("x/A1", "y/Q")}
    write_parquet(folds, tmp / "folds.parquet", {"identity": {"sha256": "g"}})
    with pytest.raises(InputError, check=has_code("section-on-both-sides"), match="transfer"):
        audit_sections(spec={}, samples=paths, folds=tmp / "folds.parquet", out=tmp / "o.parquet")
    audit_sections(spec={"on_match": "report"}, samples=paths, folds=tmp / "folds.parquet", out=tmp / "o.parquet")
    assert (pd.read_parquet(tmp / "o.parquet")["sides"] == "transfer").sum() == 2


def test_the_picture_of_the_audit_is_the_same_every_time(leaking):
    from histoloom.report.audit_figure import draw_audit

    paths, tmp = leaking
    audit_sections(spec={"on_match": "report"}, samples=paths, out=tmp / "o.parquet")
    for name in ("a.png", "b.png"):
        draw_audit(table=tmp / "o.parquet", title="t", out=tmp / name)
    assert (tmp / "a.png").read_bytes() == (tmp / "b.png").read_bytes()


def simulated_fingerprint(sample: str, patient: str, **effects):
    from histoloom_simulation.counts import gene_names, spot_counts
    from histoloom_simulation.section import simulate_section

    row = sheet_row("W1") | {"sample": sample, "patient": patient}
    rows = sheet_rows() if sample in {"W1", "W2"} else [*sheet_rows(), row]
    spec = simulated_spec(rows=rows, seed=1, effects=effects)
    made = simulate_section(spec, row)
    kept = made.counted
    centres = made.layout.centres[made.spots[kept]]
    counts = spot_counts(spec, made.section, made.options, made.cells.types, made.abundance[kept], centres)
    return make_fingerprint("sim", sample, patient, counts, gene_names(int(spec["generic_genes"])))


def test_the_simulated_person_with_two_names_is_found_in_the_simulated_cohort():
    sections = [
        simulated_fingerprint("W1", "W"),
        simulated_fingerprint("W2", "W"),
        simulated_fingerprint("N1", "N", same_person={"N1": "W1"}),
    ]
    table = compare_sections(sections, None).set_index(["first", "second"])
    assert table.loc[("sim/W1", "sim/N1"), "verdict"] == "same"
    assert table.loc[("sim/W1", "sim/N1"), "sides"] != ""
    assert table.loc[("sim/W1", "sim/W2"), "verdict"] == "different"
    assert table.loc[("sim/W2", "sim/N1"), "verdict"] == "different"


@pytest.mark.real
def test_her2st_sections_are_found_in_a_copy_with_scrambled_names(real_data):
    """Four patients of her2st as another data set holds them: other names, spots lost, half of the genes renamed."""
    rng = np.random.default_rng(0)
    own, copies, expected = [], [], set()
    for number, sample in enumerate(("E1", "E2", "F1", "G1", "H1")):
        table = pd.read_csv(real_data / f"her2st/data/ST-cnts/{sample}.tsv.gz", sep="\t", index_col=0)
        counts, genes = csr_matrix(table.to_numpy()), list(table.columns)
        own.append(make_fingerprint("her2st", sample, sample[0], counts, genes))
        if sample == "E2":
            continue  # a sibling that the other data set lacks
        kept = np.sort(rng.permutation(len(table))[: int(0.99 * len(table))])
        part = rng.random(len(genes)) < 0.5
        measured = np.flatnonzero(rng.random(len(genes)) < 0.9)
        names = [
            f"ENSG{i:011d}.1" if renamed else gene for i, (gene, renamed) in enumerate(zip(genes, part, strict=True))
        ]
        copies.append(
            make_fingerprint(
                "stnet", f"S{number}", f"BC{number}", counts[kept][:, measured], [names[i] for i in measured]
            )
        )
        expected.add((f"her2st/{sample}", f"stnet/S{number}"))
    table = compare_sections([*own, *copies], None)
    found = set(table[table["verdict"] == "same"][["first", "second"]].itertuples(index=False, name=None))
    assert found == expected
    assert (table[table["verdict"] == "same"]["sides"] != "").all()
