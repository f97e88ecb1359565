"""One simulated Xenium run with its H&E, in the bundle's own layout, and what each cell is.

The tissue, its cells and the slide are those of `histoloom_simulation.section`; what the run measures is a cell's own
counts and outlines, in um of a frame that is turned against the H&E. Classes have known signals:

=================================  ==============================================================
class                              what tells it apart
=================================  ==============================================================
``T_cell`` and ``B_cell``          genes only: they are drawn alike
``tumour`` and ``epithelial``      morphology only, with ``same_expression``: they have one profile
``fibroblast`` and ``myofibroblast``  neither, with ``unlearnable``: half of the cells, drawn by lot
all others                         both
=================================  ==============================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histoloom_simulation.celltypes import REGIONS, all_types, rna_content
from histoloom_simulation.counts import gene_names, negative_binomial, signatures
from histoloom_simulation.options import random_stream
from histoloom_simulation.render import draw_slide
from histoloom_simulation.section import Simulation, simulate_section

Array = NDArray[Any]
PIXEL_UM = 0.2125
_PITCH_UM = 100.0
_TURN = np.deg2rad(4.0)
_NAMES = {"cancer_epithelial": "tumour", "luminal_epithelial": "epithelial"}
_CONTROLS = {
    "Negative Control Probe": [f"NegControlProbe_{i:05d}" for i in range(10)],
    "Negative Control Codeword": [f"NegControlCodeword_{i:04d}" for i in range(5)],
    "Unassigned Codeword": [f"UnassignedCodeword_{i:04d}" for i in range(5)],
}
_VERTICES = 13  # of an outline as 10x publishes it, the last equal to the first
_RIM_UM = 2.0  # of cytoplasm around a nucleus whose type has no body of its own


def section_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``cohort.simulated_xenium`` entry in the words of ``cohort.simulated``; others stay as they are."""
    if spec["source"] != "simulated_xenium":
        return dict(spec)
    effects = {
        "misspecification": True, "geometry": False, "barcode": False, "prevalence": True, "same_morphology": True,
        "patient_only_type": False, "stain_by_patient": spec["stain_by_patient"], "reference_only_type": True,
        "tissue_only_type": False, "rna_content": 3.0, "depth_ratio": 1.0, "zero_umi_spot": False, "spot_bleed": 0.0,
        "platform_effect": spec["platform_effect"], "patient_expression": spec["patient_expression"], "pairs": False,
        "true_mpp": {}, "same_person": {},
    }  # fmt: skip
    array = {
        f"array_{axis}": round(spec[side] / _PITCH_UM) + 1 for axis, side in (("x", "width_um"), ("y", "height_um"))
    }
    return {**spec, **array, "effects": effects}


def write_xenium(*, spec: Mapping[str, Any], row: Mapping[str, str], out: Mapping[str, Path]) -> None:
    """Write a simulated run.

    Parameters
    ----------
    spec
        Validated cohort entry (``cohort.simulated_xenium.schema.yaml``) with ``sheet_rows``, all rows of its sheet.
    row
        The run's row.
    out
        Paths by role: ``counts`` (cell_feature_matrix.h5), ``cells``, ``cell_boundaries``, ``nucleus_boundaries``
        (parquet), ``experiment``, ``image`` (OME-TIFF), ``alignment`` (csv) and ``classes`` (csv: cell_id, label,
        confidence, type, niche), which no bundle has.
    """
    chosen = {**section_spec(spec), "sheet_rows": [_placed(other) for other in spec["sheet_rows"]]}
    made = simulate_section(chosen, _placed(row))
    n, genes = len(made.cells.kind), gene_names(int(spec["generic_genes"]))
    ids = cell_ids(n, int(spec["seed"]), made.section.sample)
    matrix = alignment(made)
    outlines = {name: _to_run(_outline(made, name), matrix, made.section.mpp) for name in ("cell", "nucleus")}
    counts = cell_counts(chosen, made, genes)
    _write_counts(counts, ids, genes, spec, made, out["counts"])
    centre = _to_run(made.cells.position[:, None], matrix, made.section.mpp)[:, 0]
    area = {name: _area(ring) for name, ring in outlines.items()}
    cells = {
        "cell_id": ids, "x_centroid": centre[:, 0], "y_centroid": centre[:, 1], "transcript_counts": counts.sum(axis=1),
        "cell_area": area["cell"], "nucleus_area": area["nucleus"],
    }  # fmt: skip
    pd.DataFrame(cells).to_parquet(out["cells"], index=False)
    for name, rings in outlines.items():
        vertices = rings.reshape(-1, 2).astype(np.float32)
        table = {"cell_id": np.repeat(ids, _VERTICES), "vertex_x": vertices[:, 0], "vertex_y": vertices[:, 1]}
        pd.DataFrame(table).to_parquet(out[f"{name}_boundaries"], index=False)
    facts = {
        "pixel_size": PIXEL_UM, "num_cells": n, "analysis_sw_version": "xenium-3.0.0.15", "run_name": row["sample"],
        "panel_name": "simulated",
    }  # fmt: skip
    out["experiment"].write_text(json.dumps(facts, indent=1) + "\n")
    lines = (",".join(f"{value:.10f}" for value in line) for line in matrix)
    out["alignment"].write_text("\n".join(lines) + "\n")
    known = pd.DataFrame({"cell_id": ids, **classes(spec, made)})
    known.to_csv(out["classes"], index=False, lineterminator="\n")
    picture = draw_slide(chosen, made.section, made.layout, made.tissue, made.cells, made.options)
    _write_slide(picture, made.section.mpp, out["image"])


def _placed(row: Mapping[str, str]) -> dict[str, str]:
    return {**row, "pitch_um": str(_PITCH_UM), "spot_diameter_um": "55"}


def cell_ids(n: int, seed: int, sample: str) -> Array:
    """Return ids as Onboard Analysis makes them, ``aaaabcdj-1``: eight hexadecimal digits written a to p."""
    numbers = np.sort(random_stream(seed, "cell ids", sample).choice(16**5, n, replace=False))
    to_letters = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
    return np.array([f"{number:08x}".translate(to_letters) + "-1" for number in numbers], dtype=object)


def alignment(made: Simulation) -> Array:
    """Return (3, 3), px of the H&E to px of the morphology image: turned, and moved so that no place is negative."""
    scale = made.section.mpp / PIXEL_UM
    turn = scale * np.array([[np.cos(_TURN), -np.sin(_TURN)], [np.sin(_TURN), np.cos(_TURN)]])
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * [made.layout.width_px, made.layout.height_px]
    shift = 50 - (corners @ turn.T).min(axis=0)
    return np.vstack([np.column_stack([turn, shift]), [0.0, 0.0, 1.0]])


def _to_run(um: Array, matrix: Array, mpp: float) -> Array:
    """Map places on the slide (..., 2), um, to um of the run."""
    return (um / mpp @ matrix[:2, :2].T + matrix[:2, 2]) * PIXEL_UM


def _outline(made: Simulation, what: str) -> Array:
    """Return closed outlines of nuclei or cells on the slide, um (n, vertices, 2)."""
    cells = made.cells
    axes = np.array([[t.length_um / 2, t.width_um / 2] for t in cells.types])[cells.kind] * cells.scale[:, None]
    if what == "cell":
        body = np.array([t.body_um for t in cells.types])[cells.kind, None]
        axes = np.maximum(axes + _RIM_UM, body)
    angle = np.linspace(0, 2 * np.pi, _VERTICES)
    ring = axes[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    cos, sin = np.cos(cells.angle)[:, None], np.sin(cells.angle)[:, None]
    turned = np.stack([cos * ring[..., 0] - sin * ring[..., 1], sin * ring[..., 0] + cos * ring[..., 1]], axis=-1)
    return turned + cells.position[:, None]


def _area(rings: Array) -> Array:
    x, y = rings[:, :-1, 0], rings[:, :-1, 1]
    return np.abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)) / 2


def classes(spec: Mapping[str, Any], made: Simulation) -> dict[str, Array]:
    """Return label, confidence, type and niche (the region it lies in) of each cell."""
    types = np.array([t.name for t in made.cells.types], dtype=object)[made.cells.kind]
    label = np.array([_NAMES.get(name, name) for name in types], dtype=object)
    if spec["unlearnable"]:
        lot = random_stream(int(spec["seed"]), "unlearnable", made.section.sample).random(len(label)) < 0.5
        label[lot & (types == "fibroblast")] = "myofibroblast"
    niche = np.array(REGIONS, dtype=object)[made.tissue.at(made.tissue.region, made.cells.position)]
    return {"label": label, "confidence": np.ones(len(label)), "type": types, "niche": niche}


def cell_counts(spec: Mapping[str, Any], made: Simulation, genes: list[str]) -> Array:
    """Return counts, int32 (cells, genes); a share ``spill`` of them comes from the cell's nearest neighbour."""
    from scipy.spatial import cKDTree

    seed, sample, cells = int(spec["seed"]), made.section.sample, made.cells
    names = [t.name for t in all_types()]
    profile = signatures(seed, genes)
    if spec["same_expression"]:
        profile[names.index("luminal_epithelial")] = profile[names.index("cancer_epithelial")]
    own = [names.index(t.name) for t in cells.types]
    # One shift per gene for all types of a patient: types with one profile keep one.
    shift = random_stream(seed, "patient expression", made.section.patient).normal(0, 1, len(genes))
    profile = profile[own] * np.exp(made.options.patient_expression * shift)
    profile *= np.exp(made.options.platform_effect * random_stream(seed, "platform").normal(0, 1, len(genes)))
    profile /= profile.sum(axis=1, keepdims=True)
    content = np.array([rna_content(t, made.options.rna_content) for t in cells.types])
    if spec["same_expression"]:
        of = {t.name: i for i, t in enumerate(cells.types)}
        content[of["luminal_epithelial"]] = content[of["cancer_epithelial"]]
    rng = random_stream(seed, "cell counts", sample)
    depth = content[cells.kind] * float(spec["umi_per_cell"]) * rng.lognormal(0, 0.35, len(cells.kind))
    mean = profile[cells.kind]
    _, near = cKDTree(cells.position).query(cells.position, k=2)
    mean = (1 - spec["spill"]) * mean + spec["spill"] * mean[near[:, 1]]
    return negative_binomial(rng, mean * depth[:, None], float(spec["dispersion"]))


def _write_counts(
    counts: Array, ids: Array, genes: list[str], spec: Mapping[str, Any], made: Simulation, path: Path
) -> None:
    """Write 10x's matrix: CSC of features x cells, control features after the genes."""
    import h5py
    from scipy.sparse import csr_matrix

    controls = [name for group in _CONTROLS.values() for name in group]
    rng = random_stream(int(spec["seed"]), "controls", made.section.sample)
    matrix = csr_matrix(np.hstack([counts, rng.poisson(0.003, (len(ids), len(controls)))]))
    kinds = ["Gene Expression"] * len(genes) + [kind for kind, group in _CONTROLS.items() for _ in group]
    names = np.array([*genes, *controls], "S")
    arrays = {
        "barcodes": ids.astype("S"), "data": matrix.data.astype(np.int32), "indices": matrix.indices.astype(np.int64),
        "indptr": matrix.indptr.astype(np.int64), "shape": np.array([matrix.shape[1], matrix.shape[0]], np.int32),
        "features/id": names, "features/name": names, "features/feature_type": np.array(kinds, "S"),
        "features/genome": np.array(["Unknown"] * len(names), "S"),
    }  # fmt: skip
    with h5py.File(path, "w", libver="earliest", track_order=False) as handle:
        for name, values in arrays.items():
            packed = {"compression": "gzip"} if values.dtype.kind == "i" and len(values) > 2 else {}
            handle.create_dataset(f"matrix/{name}", data=values, **packed)


def _write_slide(picture: Array, mpp: float, path: Path) -> None:
    """Write a tiled OME-TIFF with reduced levels in SubIFDs, as 10x gives an H&E."""
    import tifffile

    unit = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    facts = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, **unit,
             "UUID": "00000000-0000-0000-0000-000000000000"}  # fmt: skip
    common: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    # A name makes the file the same wherever it is written.
    with path.open("wb") as handle, tifffile.TiffWriter(handle, ome=True) as writer:
        writer.write(picture, subifds=1, metadata=facts, datetime=False, software=False, **common)
        writer.write(picture[::2, ::2], subfiletype=1, datetime=False, software=False, **common)
