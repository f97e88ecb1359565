"""One simulated section as her2st publishes one (counts, spots, slide, regions) with its ground truth."""

from __future__ import annotations

import gzip
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histoloom.errors import InputError
from histoloom_simulation.barcode import draw_barcodes
from histoloom_simulation.cells import Cells, place_cells
from histoloom_simulation.celltypes import FAT, GLASS, REGION_LABELS, REGIONS
from histoloom_simulation.counts import gene_names, spot_counts
from histoloom_simulation.layout import Layout, lay_out
from histoloom_simulation.options import Section, SimulationOptions, describe_section, random_stream
from histoloom_simulation.render import draw_slide
from histoloom_simulation.tissue import Tissue, grow_tissue

logger = logging.getLogger(__name__)
Array = NDArray[Any]
_SPARE_SPOTS = 3  # rows of the spot file without counts, as in her2st
_MIN_TISSUE = 0.6


@dataclass(frozen=True)
class Simulation:
    """Everything about a section that its files are written from.

    Attributes
    ----------
    spots
        Indices into the layout's positions of the spots under tissue, in file order.
    counted
        Which of them have a row of counts.
    abundance
        Cells under each of `spots`, int (spots, types).
    """

    section: Section
    options: SimulationOptions
    layout: Layout
    tissue: Tissue
    cells: Cells
    spots: Array
    counted: Array
    abundance: Array

    @property
    def obs_ids(self) -> list[str]:
        """Return the ids of `spots`, "10x13" = x then y."""
        return [f"{self.layout.x[i]}x{self.layout.y[i]}" for i in self.spots]


def simulate_section(spec: Mapping[str, Any], row: Mapping[str, str]) -> Simulation:
    """Grow a section: tissue, cells and truth, but no pixels yet.

    Raises
    ------
    InputError
        If no spot lies on tissue: the array is too small.
    """
    options = SimulationOptions.from_spec(spec)
    section = describe_section(spec, row, options)
    layout = lay_out(spec, section, options)
    tissue = grow_tissue(spec, section, layout)
    cells = place_cells(spec, section, layout, tissue, options)
    covered = _disc_values(layout, tissue, tissue.region != GLASS) >= _MIN_TISSUE
    spots = np.flatnonzero(covered)
    if len(spots) < 2 * _SPARE_SPOTS:
        raise InputError(
            f"section {row['sample']}",
            f"only {len(spots)} spots of the {len(layout.x)} lie on tissue.",
            "raise array_x and array_y.",
            code="simulation-no-tissue",
        )
    counted = np.ones(len(spots), dtype=bool)
    spare = random_stream(spec["seed"], "spare spots", section.sample).choice(len(spots), _SPARE_SPOTS, replace=False)
    counted[spare] = False
    abundance = cells.count_under(layout.centres[spots], layout.spot_um)
    return Simulation(section, options, layout, tissue, cells, spots, counted, abundance)


def _disc_values(layout: Layout, tissue: Tissue, mask: Array) -> Array:
    """Return the share of each printed spot's disc that a mask on the tissue's grid covers, (n,)."""
    ticks = np.linspace(-0.5, 0.5, 11) * layout.spot_um
    offsets = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    offsets = offsets[np.hypot(*offsets.T) <= layout.spot_um / 2]
    points = (layout.centres[:, None, :] + offsets).reshape(-1, 2)
    return tissue.at(mask, points).reshape(len(layout.centres), -1).mean(axis=1)


def write_section(*, spec: Mapping[str, Any], row: Mapping[str, str], out: Mapping[str, Path]) -> None:
    """Write a simulated section.

    Parameters
    ----------
    spec
        Validated cohort entry (``cohort.simulated.schema.yaml``) with ``sheet_rows``, all rows of its sheet.
    row
        The section's row.
    out
        Paths by role; only the roles given are written. ``counts`` (tsv.gz), ``spots``, ``image`` (jpg), ``regions``,
        ``truth`` (tsv: obs_id, cells of each type with their nucleus' centre under the spot's disc), ``cells``
        (tsv.gz: x_um, y_um, x_px, y_px, type, region).

    Raises
    ------
    InputError
        If the sheet or the entry cannot be drawn.
    """
    made = simulate_section(spec, row)
    writers = {
        "counts": _write_counts,
        "spots": _write_spots,
        "regions": _write_regions,
        "truth": _write_truth,
        "cells": _write_cells,
        "image": _write_image,
    }
    unknown = sorted(set(out) - set(writers))
    if unknown:
        raise KeyError(f"a section has no role {unknown}; known: {sorted(writers)}")
    for role, path in out.items():
        writers[role](made, spec, Path(path))
    logger.info("%s: %d spots, %d cells, %d x %d px", row["sample"], int(made.counted.sum()), len(made.cells.kind),
                made.layout.width_px, made.layout.height_px)  # fmt: skip


def _write_gzip(text: str, path: Path) -> None:
    # No time and no name in the header: same content, same bytes.
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as zipped:
        zipped.write(text.encode())


def _write_counts(made: Simulation, spec: Mapping[str, Any], path: Path) -> None:
    kept = made.counted
    centres = made.layout.centres[made.spots[kept]]
    counts = spot_counts(spec, made.section, made.options, made.cells.types, made.abundance[kept], centres)
    index = pd.Index([i for i, k in zip(made.obs_ids, kept, strict=True) if k])
    frame = pd.DataFrame(counts, index=index, columns=gene_names(int(spec["generic_genes"])))
    _write_gzip(frame.to_csv(sep="\t", lineterminator="\n"), path)


def _places(made: Simulation) -> pd.DataFrame:
    """Return array numbers, sub-spot array numbers and pixels of `spots`."""
    layout, chosen = made.layout, made.spots
    pixels = layout.centres[chosen] / made.section.mpp
    return pd.DataFrame(
        {
            "x": layout.x[chosen],
            "y": layout.y[chosen],
            "new_x": (layout.x[chosen] + layout.jitter[chosen, 0]).round(3),
            "new_y": (layout.y[chosen] + layout.jitter[chosen, 1]).round(3),
            "pixel_x": pixels[:, 0].round(2),
            "pixel_y": pixels[:, 1].round(2),
        }
    )


def _write_spots(made: Simulation, spec: Mapping[str, Any], path: Path) -> None:
    # The publisher's rows are in no helpful order.
    order = random_stream(spec["seed"], "spot order", made.section.sample).permutation(len(made.spots))
    _places(made).assign(selected=1).iloc[order].to_csv(path, sep="\t", index=False, lineterminator="\n")


def _write_regions(made: Simulation, spec: Mapping[str, Any], path: Path) -> None:
    """Write the pathologist's table: x, y = new_x, new_y; pixel_* in another frame, y flipped; one row has no place."""
    layout, places = made.layout, _places(made)
    share = np.stack(
        [_disc_values(layout, made.tissue, made.tissue.region == code)[made.spots] for code in REGION_LABELS]
    )
    names = list(REGION_LABELS.values())
    label = [names[i] for i in share.argmax(axis=0)]
    own_x, own_y = (places["new_x"] - 1) * 125.0, (36.0 - places["new_y"]) * 125.0
    frame = pd.DataFrame(
        {
            "Row.names": [f"{x:.0f}x{y:.0f}" for x, y in zip(own_x, own_y, strict=True)],
            "x": places["new_x"],
            "y": places["new_y"],
            "pixel_x": own_x,
            "pixel_y": own_y,
            "label": label,
        }
    )
    lost = {"Row.names": "2611x27491", "label": REGION_LABELS[FAT]}
    frame = pd.concat([frame, pd.DataFrame([lost])], ignore_index=True).sort_values("Row.names")
    frame.to_csv(path, sep="\t", index=False, na_rep="NA", lineterminator="\n")


def _write_truth(made: Simulation, spec: Mapping[str, Any], path: Path) -> None:
    frame = pd.DataFrame(
        made.abundance, columns=[t.name for t in made.cells.types], index=pd.Index(made.obs_ids, name="obs_id")
    )
    frame[made.counted].to_csv(path, sep="\t", lineterminator="\n")


def _write_cells(made: Simulation, spec: Mapping[str, Any], path: Path) -> None:
    position, pixels = made.cells.position, made.cells.position / made.section.mpp
    names = np.array([t.name for t in made.cells.types])
    region = np.array(REGIONS)[made.tissue.at(made.tissue.region, position)]
    frame = pd.DataFrame(
        {
            "x_um": position[:, 0].round(2),
            "y_um": position[:, 1].round(2),
            "x_px": pixels[:, 0].round(2),
            "y_px": pixels[:, 1].round(2),
            "type": names[made.cells.kind],
            "region": region,
        }
    )
    _write_gzip(frame.to_csv(sep="\t", index=False, lineterminator="\n"), path)


def _write_image(made: Simulation, spec: Mapping[str, Any], path: Path) -> None:
    from PIL import Image

    layout = made.layout
    if made.options.barcode:
        centres = layout.centres / made.section.mpp
        shape = (layout.height_px, layout.width_px)
        picture = draw_barcodes(shape, centres, layout.x, layout.y, made.section.mpp)
    else:
        picture = draw_slide(spec, made.section, layout, made.tissue, made.cells, made.options)
    stream = io.BytesIO()
    quality = 95 if made.options.barcode else int(spec["jpeg_quality"])
    Image.fromarray(picture).save(stream, "JPEG", quality=quality, subsampling=0 if made.options.barcode else 2)
    path.write_bytes(stream.getvalue())
