"""STNet in the layout of its Mendeley record 29ntw7sh4r, version 5 (He et al. 2020, 10.1038/s41551-020-0578-x).

Four files a section and one table of them all, ``metadata.csv``. The names follow no rule (``BC`` here, ``BT`` there),
so the sheet holds them and `read` checks them against that table. Counts are spots
x Ensembl ids with about 1,000 array spots, positions (``X`` = column, ``Y`` = row of the JPG) only those under tissue:
the rest is dropped and counted. The pathologist's tables end their lines with CR and have a header one name short.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples.counts import read_counts
from histoloom.samples.reader import (
    ST_ARRAY,
    Reader,
    add_regions,
    join,
    join_counts_and_positions,
    named_files,
    whole_ids,
)
from histoloom.samples.tables import check_unique, need_columns, tidy_positions
from histoloom.schemas import nearest
from histoloom.text_tables import read_text, read_text_table

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

# Role of a file -> column of metadata.csv.
ROLES: Mapping[str, str] = {
    "counts": "count_matrix",
    "spots": "spot_coordinates",
    "image": "histology_image",
    "annotation": "tumor_annotation",
}
_LABELS = {"tumor", "non"}
_FETCH = "fetch it again."


class STNetReader(Reader):
    """Sections of STNet; the sheet names the files as ``metadata.csv`` does."""

    measures = ST_ARRAY

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts, spots, metadata, image (unless `images: false`) and annotation (if named)."""
        files = named_files(row, spec, root, ["counts", "spots", "image"], "annotation")
        return {**files, "metadata": join(root, "metadata.csv")}

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read counts, positions and the pathologist's tumour annotation (region: tumor, non) of a section."""
        if "metadata" in files:
            check_names(read_names(Path(files["metadata"])), row, Path(files["metadata"]))
        counts_file, spots_file = Path(files["counts"]), Path(files["spots"])
        counts = read_counts(counts_file)
        counts = replace(counts, obs_ids=array_ids(counts.obs_ids, counts_file))
        check_unique(counts.obs_ids, counts_file, "spot")
        section = join_counts_and_positions(counts, read_spots(spots_file), counts_file, spots_file)
        # Array spots off the tissue are no loss: only what lies under it has a position.
        section.uns["dropped"]["outside_tissue"] = section.uns["dropped"].pop("counts_without_position")
        if "annotation" in files:
            add_regions(section, *read_annotation(Path(files["annotation"])), "region_without_spot")
        return section


def array_ids(ids: pd.Index, path: Path) -> pd.Index:
    """Return ids ``XxY`` with both numbers rounded to the array's grid; some files hold refined coordinates."""
    parts = pd.Series(ids.astype(str)).str.split("x", expand=True)
    numbers = parts.apply(pd.to_numeric, errors="coerce") if parts.shape[1] == 2 else pd.DataFrame([[np.nan, np.nan]])
    if numbers.isna().to_numpy().any():
        first = int(np.flatnonzero(numbers.isna().to_numpy().any(axis=1))[0])
        problem = f"the id '{ids[first]}' is no array position such as 10x13."
        raise InputError(path, problem, _FETCH, code="stnet-spot-ids")
    moved = int((numbers.round() != numbers).any(axis=1).sum())
    if moved:
        logger.warning("%s: %d of %d ids hold fractions and were rounded to the array's grid", path, moved, len(ids))
    return whole_ids(numbers)


def read_spots(path: Path) -> pd.DataFrame:
    """Read where the spots under tissue lie; returns as `histoloom.samples.tables.read_positions`."""
    table = read_text_table(path)
    need_columns(table, ("X", "Y"), path, _FETCH, "stnet-spots-columns")
    ids = array_ids(pd.Index(table.iloc[:, 0], dtype=object), path)
    array = ids.to_series().str.split("x", expand=True).astype(np.int64).to_numpy()
    pixels = {"pixel_x": table["X"].to_numpy(), "pixel_y": table["Y"].to_numpy()}
    places = pd.DataFrame({"obs_id": ids, "array_row": array[:, 0], "array_col": array[:, 1], **pixels})
    return tidy_positions(places, path)


def read_annotation(path: Path) -> tuple[pd.Series, int]:
    """Read the pathologist's table of a section.

    The file has CR, CRLF or LF line ends. Its header may be one name short, so that every name stands one column too
    far left; the columns are recognised by their content. Coordinates are rounded to the array's grid. Returns
    ``tumor`` or ``non`` by spot id; rows left out because they have no coordinates or no label.
    """
    lines = [line.split("\t") for line in read_text(path).split("\n") if line.strip()]
    header, cells = [name.strip() for name in lines[0]], lines[1:]
    width = max((len(line) for line in cells), default=0)
    body = pd.DataFrame([[cell.strip() for cell in line] + [""] * (width - len(line)) for line in cells])
    for shift in (1, 0):
        table = body.rename(columns={i + shift: name for i, name in enumerate(header)})
        if {"xcoord", "ycoord", "tumor"} <= set(table) and table["tumor"].isin(_LABELS).any():
            break
    else:
        problem = f"no columns xcoord, ycoord, tumor (tumor or non); header: {', '.join(header)}."
        raise InputError(path, problem, _FETCH, code="stnet-annotation-columns")
    places = table[["xcoord", "ycoord"]].apply(pd.to_numeric, errors="coerce")
    usable = places.notna().all(axis=1) & table["tumor"].isin(_LABELS)
    labels = pd.Series(table.loc[usable, "tumor"].to_numpy(), index=whole_ids(places[usable]))
    twice = labels.index.duplicated(keep=False)
    if labels[twice].groupby(level=0).nunique().gt(1).any():
        problem = f"spot '{labels[twice].index[0]}' is labelled twice and differently."
        raise InputError(path, problem, _FETCH, code="stnet-labelled-twice")
    return labels[~labels.index.duplicated()], int((~usable).sum())


def read_names(path: Path) -> pd.DataFrame:
    """Read ``metadata.csv``: type, patient, replicate and the four of `ROLES`, index ``<patient>_<replicate>``."""
    table = read_text_table(path)
    need_columns(table, ("patient", "replicate", *ROLES.values()), path, _FETCH, "stnet-names-columns")
    table.index = pd.Index(table["patient"] + "_" + table["replicate"], dtype=object)
    check_unique(table.index, path, "section")
    return table


def check_names(names: pd.DataFrame, row: Mapping[str, str], path: Path) -> None:
    """Check a sheet row's patient and files against ``metadata.csv``."""
    sample = row["sample"]
    if sample not in names.index:
        problem = f"no section '{sample}' ({len(names)} sections).{nearest(sample, list(names.index))}"
        raise InputError(path, problem, "fix 'sample' in the sheet.", code="stnet-section-unknown")
    published = names.loc[sample]
    wrong = {
        role: str(published[column])
        for role, column in {"patient": "patient", **ROLES}.items()
        if row.get(role) and Path(row[role]).name != published[column]
    }
    if wrong:
        names_in_table = ", ".join(f"{role} '{name}' and not '{row[role]}'" for role, name in wrong.items())
        problem = f"section '{sample}' has {names_in_table}."
        raise InputError(path, problem, "put the published names into the sheet.", code="stnet-names-differ")
