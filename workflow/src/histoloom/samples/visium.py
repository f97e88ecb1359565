"""Visium as Space Ranger leaves it: the ``outs`` folder, and the full-resolution image that it was given.

Counts are ``filtered_feature_bc_matrix.h5``, places ``spatial/tissue_positions*`` of either generation (``_list.csv``
without a header before Space Ranger 2, ``.csv`` with one since, ``.parquet`` for Visium HD), recognised by content,
not by name. ``spatial/`` also says how large the full-resolution image was; another one is refused. For Visium HD give
a folder of ``binned_outputs``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoloom.errors import InputError
from histoloom.samples.counts import read_10x_h5
from histoloom.samples.reader import MAX_UNMATCHED, Reader, join_counts_and_positions, named_files, need
from histoloom.samples.tables import number, read_json, read_positions

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

PITCH_UM, SPOT_UM = 100.0, 55.0
_COUNTS, _SEGMENTED = "filtered_feature_bc_matrix.h5", "filtered_feature_cell_matrix.h5"
POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_REMEDY = "give Space Ranger's outs folder unchanged."


class VisiumReader(Reader):
    """Space Ranger outputs; the sheet names the ``outs`` folder and the full-resolution image."""

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts, spatial (a folder) and image (unless `images: false`)."""
        folder = Path(root) / need(row, "outs")
        if (folder / _SEGMENTED).is_file() and not (folder / _COUNTS).is_file():
            problem = f"holds segmented cells ({_SEGMENTED}), which are not read."
            remedy = "give a folder of binned_outputs, such as binned_outputs/square_008um."
            raise InputError(folder, problem, remedy, code="visium-segmented")
        files = {"counts": str(folder / _COUNTS), "spatial": str(folder / "spatial")}
        return {**files, **named_files(row, spec, root, ["image"])}

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read the barcodes of the filtered matrix and where they lie."""
        path, folder = Path(files["counts"]), Path(files["spatial"])
        counts = read_10x_h5(path)
        places_file, limit = find_positions(folder), spec.get("max_unmatched", MAX_UNMATCHED)
        places = read_positions(places_file)
        section = join_counts_and_positions(counts, places, path, places_file, max_unmatched=limit)
        dropped = section.uns["dropped"]
        # The filtered matrix holds barcodes under tissue only; the rest of the array is no loss.
        dropped["outside_tissue"] = dropped.pop("position_without_counts")
        section.uns.pop("dropped_places")
        section.uns["stated"] = read_scales(folder)
        section.uns["stated"]["facts"]["other_features"] = dict(counts.other_features)
        return section


def find_positions(folder: Path) -> Path:
    """Return the positions file of a ``spatial`` folder."""
    present = [folder / name for name in POSITIONS if (folder / name).is_file()]
    if not present:
        stored = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        problem = f"none of {', '.join(POSITIONS)}; there is: {stored or 'nothing'}."
        raise InputError(folder, problem, _REMEDY, code="visium-positions")
    if len(present) > 1:
        logger.warning("%s: several generations of positions, %s is used", folder, present[0].name)
    return present[0]


def read_scales(folder: Path) -> dict[str, Any]:
    """Read ``scalefactors_json.json``, and from it and the hires image the size of the full-resolution image.

    As `Reader.read` describes ``uns["stated"]``.
    """
    from PIL import Image

    path = folder / "scalefactors_json.json"
    scales = read_json(path, _REMEDY, "visium-scales")
    bin_um, um_per_px = number(scales.get("bin_size_um")), number(scales.get("microns_per_pixel"))
    stated: dict[str, Any] = {
        "pitch_um": bin_um or PITCH_UM,
        "spot_diameter_um": bin_um or SPOT_UM,
        "facts": {k: scales[k] for k in ("spot_diameter_fullres", "tissue_hires_scalef", "bin_size_um") if k in scales},
    }
    if um_per_px:
        stated["mpp"] = {"estimated": um_per_px}
    for size in ("hires", "lowres"):
        name, key = f"tissue_{size}_image.png", f"tissue_{size}_scalef"
        if not (folder / name).is_file():
            continue
        scale = number(scales.get(key))
        if scale is None:
            problem = f"'{key}' is {scales.get(key)!r}, no positive number."
            raise InputError(path, problem, _REMEDY, code="visium-scales")
        try:
            with Image.open(folder / name) as image:
                stated["slide_size"] = (image.width / scale, image.height / scale)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(folder / name, f"no readable picture ({error}).", _REMEDY, code="visium-hires") from error
        # The small image was rounded to whole pixels.
        stated["slide_size_tolerance"] = 1 + 1 / scale
        break
    return stated
