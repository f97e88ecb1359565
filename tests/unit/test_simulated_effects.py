"""Each simulated effect against its known answer; each with the effect off as the control."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from barcode_reader import decode_barcode
from histoloom_simulation import simulate_section
from histoloom_simulation.celltypes import PAIRS, PATIENT_ONLY, TWINS, all_types, rna_content
from histoloom_simulation.counts import bleed, depth_of, gene_names, signatures, spot_counts
from histoloom_simulation.section import Simulation
from simulation_fixtures import sheet_row, sheet_rows, simulated_spec

SMALL = {"array_x": 9, "array_y": 7}
TINY = {"array_x": 7, "array_y": 6}


@cache
def _grown(sample: str, effects: tuple[tuple[str, object], ...], size: tuple[int, int], seed: int) -> Simulation:
    spec = simulated_spec(array_x=size[0], array_y=size[1], seed=seed, effects=dict(effects))
    return simulate_section(spec, sheet_row(sample))


def grown(sample: str, size: tuple[int, int] = (17, 13), seed: int = 1, **effects: object) -> Simulation:
    return _grown(sample, tuple(effects.items()), size, seed)


def column(made: Simulation, name: str) -> np.ndarray:
    return made.abundance[:, [t.name for t in made.cells.types].index(name)].astype(float)


def counts_of(made: Simulation, **effects: object) -> np.ndarray:
    centres = made.layout.centres[made.spots]
    spec = simulated_spec(effects=effects)
    from histoloom_simulation.options import SimulationOptions

    return spot_counts(spec, made.section, SimulationOptions.from_spec(spec), made.cells.types, made.abundance, centres)


# pixels ------------------------------------------------------------------------------------------------------


def picture(sample: str, row: dict[str, str] | None = None, **changes) -> tuple[np.ndarray, Simulation]:
    from histoloom_simulation.render import draw_slide

    spec = simulated_spec(**{**SMALL, **changes})
    made = simulate_section(spec, row or sheet_row(sample))
    return draw_slide(spec, made.section, made.layout, made.tissue, made.cells, made.options), made


def nuclear_diameter_px(image: np.ndarray) -> float:
    """Segment nuclei by their haematoxylin and return the median diameter of the compact ones, px."""
    from scipy.ndimage import gaussian_filter
    from skimage.color import rgb2hed
    from skimage.filters import threshold_otsu
    from skimage.measure import label, regionprops_table

    haematoxylin = gaussian_filter(rgb2hed(image)[..., 0], 0.7)
    found = label(haematoxylin > threshold_otsu(haematoxylin[image.mean(axis=2) < 225]))
    props = regionprops_table(found, properties=("area", "solidity", "eccentricity"))
    whole = (props["solidity"] > 0.9) & (props["eccentricity"] < 0.75) & (props["area"] > 9)
    return float(np.median(2 * np.sqrt(props["area"][whole] / np.pi)))


def test_nuclei_keep_their_size_in_um_and_not_in_px():
    """One tissue photographed at four resolutions (the patients' own differ in cell mix as well)."""
    sizes = {m: nuclear_diameter_px(picture("W1", sheet_row("W1", mpp=str(m)), **TINY)[0]) for m in (0.27, 0.46, 0.69)}
    um = np.array([m * d for m, d in sizes.items()])
    assert um.max() / um.min() < 1.10
    assert sizes[0.27] / sizes[0.69] > 2.2


def test_a_wrong_sheet_leaves_the_slide_as_it_is():
    right = simulate_section(simulated_spec(**SMALL), sheet_row("X1"))
    wrong = simulate_section(simulated_spec(**SMALL, effects={"true_mpp": {"X1": 0.46}}), sheet_row("X1", mpp="0.92"))
    assert (wrong.layout.width_px, wrong.layout.height_px) == (right.layout.width_px, right.layout.height_px)


def _label_image_correlations(sample: str) -> dict[str, float]:
    """Return the correlation of the cells under a spot with the darkness there, for every way to read the array."""
    from scipy.ndimage import uniform_filter

    from histoloom_simulation.render import draw_slide

    made = grown(sample)
    image = draw_slide(simulated_spec(), made.section, made.layout, made.tissue, made.cells, made.options)
    mpp = made.section.mpp
    dark = uniform_filter(255.0 - image[..., 0].astype(np.float32), round(55 / mpp))
    x, y = (made.layout.centres[made.spots] / mpp).T
    total = made.abundance.sum(axis=1)
    height, width = dark.shape

    def correlation(at_x: np.ndarray, at_y: np.ndarray) -> float:
        rows, columns = np.clip(at_y, 0, height - 1).astype(int), np.clip(at_x, 0, width - 1).astype(int)
        return float(np.corrcoef(dark[rows, columns], total)[0, 1])

    return {
        "right": correlation(x, y),
        "swap": correlation(y, x),
        "flip x": correlation(width - x, y),
        "flip y": correlation(x, height - y),
        "turn": correlation(width - x, height - y),
    }


def test_swapped_or_flipped_spots_lose_the_picture():
    """Over the sections, as one section's 145 correlated spots leave a chance of 0.3."""
    found = [_label_image_correlations(sample) for sample in ("Z1", "Z2")]
    mean = {way: float(np.mean([f[way] for f in found])) for way in found[0]}
    assert mean.pop("right") > 0.7
    assert max(mean.values()) < 0.2, mean
    assert np.mean(list(mean.values())) < 0.1, mean


def test_geometry_effect_makes_everything_unequal_and_its_absence_equal():
    made, plain = grown("W1"), grown("W1", geometry=False)
    for section, pitch_ratio in ((made, 1.01), (plain, 1.0)):
        layout = section.layout
        grid = np.stack([layout.x, layout.y], 1).astype(float)
        slope = [np.polyfit(grid[:, k], layout.centres[:, k], 1)[0] for k in (0, 1)]
        assert slope[0] / slope[1] == pytest.approx(pitch_ratio, abs=0.002)
    assert made.layout.width_px != made.layout.height_px
    assert np.ptp(made.layout.x) != np.ptp(made.layout.y)
    assert grown("W2").layout.angle != made.layout.angle
    assert plain.layout.angle == 0
    assert len(plain.spots) > len(made.spots)


@pytest.mark.parametrize("mpp", [0.27, 0.46, 0.92])
def test_barcode_tiles_decode_to_their_own_spot(tmp_path, mpp):
    import pandas as pd
    from PIL import Image

    from histoloom_simulation import write_section

    spec = simulated_spec(**SMALL, effects={"barcode": True})
    out = {"image": tmp_path / "i.jpg", "spots": tmp_path / "s.tsv"}
    write_section(spec=spec, row=sheet_row("W1", mpp=str(mpp)), out=out)
    image, spots = np.asarray(Image.open(out["image"])), pd.read_csv(out["spots"], sep="\t")
    for _, spot in spots.iterrows():
        corner = np.rint([spot["pixel_x"] - 112, spot["pixel_y"] - 112]).astype(int)
        tile = image[corner[1] : corner[1] + 224, corner[0] : corner[0] + 224]
        reading = decode_barcode(tile, mpp)
        assert (reading.row, reading.col) == (spot["x"], spot["y"])
        assert max(abs(reading.dx), abs(reading.dy)) <= 0.55
        # The block's centre is known to much less than a pixel.
        assert corner[0] + 112 + reading.dx == pytest.approx(spot["pixel_x"], abs=0.15)
        assert corner[1] + 112 + reading.dy == pytest.approx(spot["pixel_y"], abs=0.15)
    resized = np.asarray(Image.fromarray(tile).resize((round(224 * mpp / 0.5),) * 2, Image.Resampling.LANCZOS))
    again = decode_barcode(resized, 224 * mpp / resized.shape[0])
    assert (again.row, again.col) == (reading.row, reading.col)
    for name, turned in (("mirror", tile[:, ::-1]), ("flip", tile[::-1]), ("swap", tile.transpose(1, 0, 2))):
        with pytest.raises(ValueError, match="mirrored"):
            pytest.fail(f"{name}: {decode_barcode(turned, mpp)}")


def test_a_tile_off_its_spot_is_measured_or_refused():
    from histoloom_simulation.barcode import draw_barcodes

    image = draw_barcodes((300, 300), np.array([[150.3, 149.8]]), np.array([10]), np.array([13]), 0.46)
    reading = decode_barcode(image[40:264, 36:260], 0.46)
    assert (reading.row, reading.col) == (10, 13)
    assert reading.dx == pytest.approx(150.3 - 148, abs=0.1)
    assert reading.dy == pytest.approx(149.8 - 152, abs=0.1)
    with pytest.raises(ValueError, match="barcode"):
        decode_barcode(image[76:300, 0:224], 0.46)


def test_stain_differs_by_patient_only_with_the_effect():
    def colour(sample: str, on: bool) -> np.ndarray:
        row = sheet_row(sample, mpp="0.92")
        image, _ = picture(sample, row, **TINY, effects={"stain_by_patient": on})
        return np.median(image[image.mean(axis=2) < 225], axis=0)

    on = [colour(s, True) for s in ("W1", "X1", "Y1", "Z1")]
    off = [colour(s, False) for s in ("W1", "X1", "Y1", "Z1")]
    assert np.std(on, axis=0).max() > 2 * np.std(off, axis=0).max()
    assert np.abs(colour("W2", True) - on[0]).max() < 0.5 * max(np.abs(c - on[0]).max() for c in on[1:])


# cells -------------------------------------------------------------------------------------------------------


def test_prevalence_differs_only_with_the_effect():
    on, off = (np.bincount(grown("Y1", prevalence=p).cells.kind) for p in (True, False))
    names = [t.name for t in grown("Y1").cells.types]
    compared = [names.index(n) for n in ("cancer_epithelial", "mast_cell", "fibroblast", "endothelial", "NK_cell")]
    assert on[compared].max() / on[compared].min() > 5
    assert off[compared].max() / off[compared].min() < 2.5


def test_twins_look_alike_and_their_difference_has_no_picture():
    made = grown("Y1")
    looks = [
        (t.length_um, t.width_um, t.stain, t.vesicular, t.clumps, t.body_um, t.body_haem)
        for t in made.cells.types
        if t.name in TWINS
    ]
    assert looks[0] == looks[1]
    off = [t.length_um for t in grown("Y1", same_morphology=False).cells.types if t.name in TWINS]
    assert off[0] != off[1]
    difference = []
    for sample in ("W1", "X1", "Y1", "Z1"):
        a, b = (column(grown(sample), name) for name in TWINS)
        difference.append(np.corrcoef(a - b, a + b)[0, 1])
        assert (a - b).std() > 0.3 * (a + b).std()
    assert abs(np.mean(difference)) < 0.35


def test_patient_only_type_is_flat_within_sections_and_set_by_the_patient():
    samples = [r["sample"] for r in sheet_rows()]
    columns = [column(grown(s), PATIENT_ONLY) for s in samples]
    means = np.array([c.mean() for c in columns]).reshape(4, 2)
    assert (means.min(axis=1) == 0).sum() == 1  # one patient has none at all
    assert np.sort(means.mean(axis=1))[-1] > 2
    assert np.ptp(means, axis=1).max() < 0.25 * means.max()
    for values in columns:
        if values.any():
            assert values.var() / values.mean() < 1.6  # as even as a Poisson process
    spread = np.array([column(grown(s, patient_only_type=False), PATIENT_ONLY).mean() for s in samples[::2]])
    assert spread.min() > 0.6 * spread.max()


def _pair_correlations(samples: tuple[str, ...], **effects: object) -> dict[str, float]:
    """Return the mean correlation of each pair's intensity over the tissue's grid and of its cells over spots."""
    found = {}
    for name, (a, b) in PAIRS.items():
        values = [np.corrcoef(column(grown(s, **effects), a), column(grown(s, **effects), b))[0, 1] for s in samples]
        found[name] = float(np.mean(values))
    return found


def test_pairs_attract_repel_and_ignore():
    samples = tuple(r["sample"] for r in sheet_rows())
    on, off = _pair_correlations(samples), _pair_correlations(samples, pairs=False)
    assert on["attracting"] > 0.15
    assert on["repelling"] < -0.1
    assert abs(on["independent"]) < 0.08
    assert all(abs(value) < 0.08 for value in off.values()), off


def test_same_person_under_another_name_is_the_same_tissue_and_counts():
    rows = [*sheet_rows(), sheet_row("W1", sample="Q7", patient="Q")]
    spec = simulated_spec(rows=rows, **SMALL, effects={"same_person": {"Q7": "W1"}})
    original, other = simulate_section(spec, rows[0]), simulate_section(spec, rows[-1])
    without = simulate_section(simulated_spec(**SMALL), rows[0])
    assert np.array_equal(original.abundance, other.abundance)
    assert original.obs_ids == other.obs_ids
    assert np.array_equal(without.cells.position, original.cells.position)  # the sheet's extra rows change nobody
    assert np.array_equal(counts_of(original), counts_of(other))
    stranger = simulate_section(simulated_spec(rows=rows, **SMALL), rows[-1])
    assert stranger.abundance.shape != original.abundance.shape or not np.array_equal(
        stranger.abundance, original.abundance
    )


def test_sisters_share_architecture_and_strangers_do_not():
    """Regions of the two sections of a patient agree, in the patient's own frame; those of two patients do not."""

    def regions(sample: str) -> np.ndarray:
        made = grown(sample)
        ticks = np.stack(np.meshgrid(np.linspace(-0.7, 0.7, 60), np.linspace(-0.7, 0.7, 50)), -1).reshape(-1, 2)
        return made.tissue.at(made.tissue.region, made.layout.to_slide(ticks * made.layout.half))

    def agreement(a: str, b: str) -> float:
        from sklearn.metrics import cohen_kappa_score

        return float(cohen_kappa_score(regions(a), regions(b)))

    siblings = np.mean([agreement(p + "1", p + "2") for p in "WXYZ"])
    strangers = np.mean([agreement("W1", "X1"), agreement("X1", "Y1"), agreement("Y1", "Z1")])
    assert siblings > strangers + 0.2


def test_every_section_has_every_region():
    for row in sheet_rows():
        made = grown(row["sample"])
        assert set(np.unique(made.tissue.region)) == set(range(7)), row["sample"]
        assert len(made.spots) >= 133


# counts ------------------------------------------------------------------------------------------------------


def test_depth_falls_thirteenfold_over_the_patients():
    first, last = grown("W1"), grown("Z1")
    assert depth_of(first.section, 13) / depth_of(last.section, 13) == pytest.approx(13)

    def per_cell(made: Simulation, **effects: object) -> float:
        return counts_of(made, **effects).sum() / made.abundance.sum()

    assert per_cell(first) / per_cell(last) == pytest.approx(13, rel=0.35)
    assert per_cell(first, depth_ratio=1) / per_cell(last, depth_ratio=1) == pytest.approx(1, rel=0.35)


def test_one_spot_of_one_section_is_empty():
    empty = {r["sample"]: int((counts_of(grown(r["sample"])).sum(axis=1) == 0).sum()) for r in sheet_rows()}
    assert {s: n for s, n in empty.items() if n} == {"Z1": 1}
    assert (counts_of(grown("Z1"), zero_umi_spot=False).sum(axis=1) > 0).all()


def test_rna_share_is_not_abundance():
    by_name = {t.name: t for t in all_types()}
    assert rna_content(by_name["cancer_epithelial"], 3) / rna_content(by_name["T_cell"], 3) == pytest.approx(3)
    made = grown("W1")
    cancer = column(made, "cancer_epithelial") / np.maximum(made.abundance.sum(axis=1), 1)

    def umi_per_cell(ratio: float) -> float:
        quiet = {"misspecification": False, "zero_umi_spot": False, "depth_ratio": 1}
        total = counts_of(made, rna_content=ratio, **quiet).sum(axis=1) / np.maximum(made.abundance.sum(axis=1), 1)
        return float(np.median(total[cancer > 0.7]) / np.median(total[cancer < 0.1]))

    assert umi_per_cell(3) > 1.4
    assert umi_per_cell(1) == pytest.approx(1, abs=0.2)


def test_bleed_moves_transcripts_to_neighbours_and_loses_none():
    x, y = np.meshgrid(np.arange(5), np.arange(4))
    centres = np.stack([x.ravel(), y.ravel()], 1) * 100.0
    mean = np.zeros((20, 2))
    mean[7] = (100, 50)
    moved = bleed(mean, centres, 100.0, 0.2)
    assert moved.sum(axis=0) == pytest.approx(mean.sum(axis=0))
    assert moved[7] == pytest.approx([80, 40])
    reached = np.flatnonzero(moved[:, 0])
    assert np.hypot(*(centres[reached] - centres[7]).T).max() <= 150
    assert np.array_equal(bleed(mean, centres, 100.0, 0.0), mean)


def test_misspecification_switches_its_four_effects_off_together():
    from histoloom_simulation.options import SimulationOptions

    off = SimulationOptions.from_spec(simulated_spec(effects={"misspecification": False, "spot_bleed": 0.3}))
    assert (off.tissue_only_type, off.spot_bleed, off.platform_effect, off.patient_expression) == (False, 0, 0, 0)
    on = SimulationOptions.from_spec(simulated_spec())
    assert min(on.tissue_only_type, on.spot_bleed, on.platform_effect, on.patient_expression) > 0
    # Counts without misspecification are the reference's profiles, up to depth: the residual is noise.
    made = grown("W1", misspecification=False)
    assert "smooth_muscle" not in [t.name for t in made.cells.types]


def test_markers_mark_their_type():
    genes = gene_names(100)
    profile = signatures(1, genes)
    for i, cell_type in enumerate(all_types()):
        for gene in cell_type.markers:
            others = np.delete(profile[:, genes.index(gene)], i)
            assert profile[i, genes.index(gene)] > 3 * others.max(), (cell_type.name, gene)


def test_types_are_recovered_by_least_squares_on_the_signatures():
    """Weighted by the genes' noise, on the reference's own profiles: what nnls and cell2location build on."""
    from scipy.optimize import nnls

    genes, names = gene_names(100), [t.name for t in all_types()]
    recovered = {}
    for misspecification in (False, True):
        made = grown("W1", misspecification=misspecification)
        counts = counts_of(made, misspecification=misspecification)
        types = [t for t in made.cells.types if t.name != "smooth_muscle"]
        basis = np.stack([signatures(1, genes)[names.index(t.name)] * rna_content(t, 3) for t in types], 1)
        weight = 1 / np.sqrt(counts.mean(axis=0) + 0.5)
        found = np.stack([nnls(basis * weight[:, None], row * weight)[0] for row in counts])
        r = [np.corrcoef(found[:, j], column(made, t.name))[0, 1] for j, t in enumerate(types)]
        recovered[misspecification] = np.array(r)
    assert recovered[False].mean() > 0.85
    assert recovered[False].min() > 0.75
    assert recovered[True].mean() < recovered[False].mean() - 0.02
