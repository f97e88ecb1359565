"""What a reader of a source gives; light at import, since the workflow's graph asks it for paths."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples.counts import Counts

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

_ENDING = re.compile(r"-[0-9A-Za-z]+$")
_CHANGES: dict[str, Callable[[str], str]] = {
    "without their endings such as -1": lambda name: _ENDING.sub("", name),
    "without regard to case": str.lower,
    "without zeros that pad numbers": lambda name: re.sub(r"(?<![0-9])0+(?=[0-9])", "", name),
    "without blanks": lambda name: re.sub(r"\s", "", name),
}


ST_ARRAY = {"pitch_um": "200", "spot_diameter_um": "100"}
"""Measures of the first printed arrays, of her2st and STNet: 100 um spots at 200 um."""


class Reader(ABC):
    """A source of sections: where its files lie, and how they become observations. Has no state.

    `spec_keys`: config keys that change what `read` returns. `has_array`: whether places come from a
    printed array, so that they say something about um per pixel and about swapped axes. `on_grid`: whether array_row,
    array_col number the lines of a regular grid; False where they only round a free position. `unit`: what one
    observation is. `measures`: sheet columns that the source fixes.
    """

    spec_keys: ClassVar[tuple[str, ...]] = ()
    has_array: ClassVar[bool] = True
    on_grid: ClassVar[bool] = True
    unit: ClassVar[str] = "spot"
    measures: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return the section's files by role; role ``image`` is the slide."""

    @classmethod
    def tables(cls, spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return published tables of the whole cohort by name."""
        return {}

    @classmethod
    def polygons(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return published tables of outlines by what they outline: cells, nuclei."""
        return {}

    @classmethod
    def implied(cls, row: Mapping[str, str], spec: Mapping[str, Any]) -> dict[str, str]:
        """Return `measures`, or what follows from row and config, for cells that the sheet leaves empty."""
        return dict(cls.measures)

    @classmethod
    @abstractmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read a section's observations, without images.

        X int32 CSR; obs array_row, array_col, in_tissue, optional region; obsm["spatial"] (n, 2) = column, row in
        level-0 px; uns["dropped"] = counts by reason and, optionally, uns["dropped_places"] (k, 2) = where what was
        dropped lies. Optional: var["ensembl_id"]; obs columns of `histoloom.samples.canonical.OPTIONAL_OBS`;
        uns["stated"], a dict of what the files say about the section: "mpp" ({"alignment" or "estimated": um/px}),
        "pitch_um", "spot_diameter_um", "slide_size" (width, height in px; "slide_size_tolerance" where it is rounded),
        "unit" (what an observation is, where the source holds several kinds), "free" (places have no array, whatever
        `on_grid` says: array_row and array_col become places in steps of the pitch) and "facts" (JSON, kept in
        the metadata).
        """


def need(row: Mapping[str, str], column: str) -> str:
    """Return a sheet cell that must not be empty."""
    value = row.get(column, "")
    if not value:
        problem = f"column '{column}' is empty."
        remedy = "fill it, or exclude the section."
        raise InputError(f"sheet row '{row.get('sample', '?')}'", problem, remedy, code="sheet-cell-empty")
    return value


def pictured(spec: Mapping[str, Any]) -> bool:
    """Whether a cohort is read with its slides (config key `images`)."""
    return bool(spec.get("images", True))


def named_files(
    row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path, needed: Iterable[str], *optional: str
) -> dict[str, str]:
    """Return the files that cells of a row name, by column; the image only where the cohort is read with its slides."""
    columns = [name for name in needed if name != "image" or pictured(spec)]
    return {name: join(root, need(row, name)) for name in (*columns, *filter(row.get, optional))}


def join(root: str | Path, path: str) -> str:
    """Join a root and a path as text; an absolute path stays as it is."""
    return str(Path(root) / path)


def whole_ids(places: pd.DataFrame) -> pd.Index:
    """Return the ids ``XxY`` of array coordinates, two columns of numbers rounded to the array's grid."""
    whole = places.round().astype(np.int64).astype(str)
    return pd.Index(whole.iloc[:, 0] + "x" + whole.iloc[:, 1], dtype=object)


def add_regions(section: AnnData, regions: pd.Series, unplaced: int, lost_as: str) -> None:
    """Add a pathologist's labels by spot id; count those without coordinates, and as `lost_as` those without a spot."""
    section.obs["region"] = regions.reindex(section.obs_names).fillna("").to_numpy()
    lost = int((~regions.index.isin(section.obs_names)).sum())
    section.uns["dropped"] |= {"region_without_coordinates": unplaced, lost_as: lost}


def positions_at(array: npt.ArrayLike, places: npt.NDArray[np.floating], **columns: Any) -> pd.DataFrame:
    """Return positions in tissue: array row and column, (n, 2), column and row on the slide, (n, 2), level-0 px."""
    rows, cols = np.asarray(array, np.int64).T
    at = {"pixel_x": places[:, 0], "pixel_y": places[:, 1]}
    return pd.DataFrame({"array_row": rows, "array_col": cols, "in_tissue": True, **at, **columns})


def assemble(counts: Counts, positions: pd.DataFrame, dropped: Mapping[str, int]) -> AnnData:
    """Put counts and positions of the same observations, in the same order, into an AnnData."""
    from anndata import AnnData

    spatial: np.ndarray = positions[["pixel_x", "pixel_y"]].to_numpy("float64")
    ids = {} if counts.gene_ids is None else {"ensembl_id": counts.gene_ids}
    merged = {"gene_merged_by_symbol": counts.merged_genes} if counts.merged_genes else {}
    return AnnData(
        X=counts.matrix,
        obs=positions.drop(columns=["pixel_x", "pixel_y"]).set_axis(counts.obs_ids.astype(str)),
        var=pd.DataFrame(ids, index=counts.genes.astype(str)),
        obsm={"spatial": spatial},
        uns={"dropped": {**dropped, **merged}},
    )


MAX_UNMATCHED = 0.1
"""Share of rows of a file that may lack a partner in the other before the join stops (config key `max_unmatched`)."""


def join_counts_and_positions(
    counts: Counts, positions: pd.DataFrame, counts_file: Path, positions_file: Path, *, max_unmatched: float = 1.0
) -> AnnData:
    """Keep the observations that have both counts and a position, in the counts' order.

    `positions`: as `histoloom.samples.tables.read_positions` returns. `max_unmatched`: largest share of the counts'
    rows, and of the positions in tissue, that may have no partner; 1 where a source is known to give more of the one
    than of the other.
    """
    shared = counts.obs_ids.isin(positions.index)
    placed = positions.index.isin(counts.obs_ids)
    in_tissue = positions["in_tissue"].to_numpy(bool) if "in_tissue" in positions else np.ones(len(positions), bool)
    without = {
        "rows of the counts without a position": float((~shared).mean()),
        "positions in tissue without counts": float((in_tissue & ~placed).sum() / max(1, in_tissue.sum())),
    }
    if not shared.any() or max(without.values()) > max_unmatched:
        shares = " and ".join(f"{100 * share:.0f} % of the {name}" for name, share in without.items())
        problem = f"{shares} (in {positions_file}). {differences(counts.obs_ids, positions.index)}"
        remedy = "give files of one section that write ids alike, or set the cohort's `max_unmatched` if this is right."
        raise InputError(counts_file, problem, remedy, code="join-unmatched")
    logger.info("%s: %d of %d rows have a position", counts_file, int(shared.sum()), len(shared))
    kept = counts.rows(shared)
    dropped = {"position_without_counts": int((~placed).sum()), "counts_without_position": int((~shared).sum())}
    section = assemble(kept, positions.loc[kept.obs_ids], dropped)
    section.uns["dropped_places"] = positions.loc[~placed, ["pixel_x", "pixel_y"]].to_numpy("float64")
    # The array's geometry is that of all its positions, not of those that survived.
    section.uns["array"] = positions[["array_row", "array_col", "pixel_x", "pixel_y"]].to_numpy("float64")
    return section


def differences(first: pd.Index, second: pd.Index) -> str:
    """Describe the ids of two files: examples, endings, and the change that would make most of them agree."""
    parts = [f"Ids are like {_examples(first)} in the first and {_examples(second)} in the second file."]
    agreeing = first.isin(second).mean()
    for name, change in _CHANGES.items():
        share = first.map(change).isin(second.map(change)).mean()
        if share > max(0.5, agreeing + 0.1):
            parts.append(f"{100 * share:.0f} % agree {name}.")
    endings = [_endings(ids) for ids in (first, second)]
    if endings[0] != endings[1] and any(endings):
        parts.append(f"Endings: {endings[0] or 'none'}; {endings[1] or 'none'}.")
    return " ".join(parts)


def _examples(ids: pd.Index) -> str:
    return ", ".join(f"'{name}'" for name in ids[:3]) + (", ..." if len(ids) > 3 else "")


def _endings(ids: pd.Index) -> str:
    matches = (_ENDING.search(str(name)) for name in ids)
    counts = Counter(match[0] for match in matches if match)
    return ", ".join(f"{ending} ({number})" for ending, number in counts.most_common(4))
