"""Tiles decoded once: a packed file per section that every pixel model maps into memory.

``results/pixels/{tiles}/{cohort}/{sample}.npy`` is uint8 (n, h, w, 3), the kept tiles in the order of the table of
tiles. ``{sample}.npy.json`` holds obs_id of each row, the tile spec and the identity.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.embeddings.sections import open_sections
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.inputs.base import Index, locate
from histoloom.slides import open_slide
from histoloom.tiles.reading import read_tiles
from histoloom.tiles.spec import TileSpec, same_spec

logger = logging.getLogger(__name__)

_AGAIN = "remove it, so that the tiles are packed again."


def pack_tiles(*, sample: Path, slide: Path, tiles: Path, spec: Mapping[str, Any], out: Path, index: Path) -> None:
    """Write a section's kept tiles to ``{sample}.npy`` and its index ``{sample}.npy.json``."""
    cohort = str(read_metadata(tiles)["cohort"])
    (section,) = open_sections(cohort, [sample], [slide], [tiles], spec)
    tile = TileSpec.from_dict(spec)
    shape = (len(section), tile.size_px, tile.size_px, 3)
    packed = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=shape)
    side = float(section.facts["size_level0_px"])
    with open_slide(slide) as opened:
        for row, pixels in enumerate(read_tiles(opened, section.centres, side, tile.size_px, pad=tile.pad)):
            packed[row] = pixels
    packed.flush()
    logger.info(
        "%s/%s: %d tiles of %d px, %.1f MB", cohort, section.sample, len(section), tile.size_px, packed.nbytes / 1e6
    )
    metadata = {
        "cohort": cohort,
        "sample": section.sample,
        "obs_id": section.obs_id.tolist(),
        "spec": tile.as_dict(),
        "identity": make_identity("pixels", {}, {"tiles": section.identity}),
    }
    index.write_text(json.dumps(metadata) + "\n")


class Pixels:
    """Tiles of observations from packed files of sections.

    `tiles` are identities of the tables of tiles they must have been cut from; None: not checked.
    """

    def __init__(
        self,
        obs: pd.DataFrame,
        paths: Sequence[Path],
        tiles_spec: Mapping[str, Any],
        tiles: Sequence[str] | None = None,
    ) -> None:
        opened = [_open(Path(path), tiles_spec, tiles) for path in paths]
        self._files = [packed for packed, _ in opened]
        keys = [_key_table(facts) for _, facts in opened]
        self._file, self._row = locate(obs, keys, "pixels", "pack the tiles of all sections again.")

    def __call__(self, rows: Index) -> npt.NDArray[np.uint8]:
        out = np.empty((len(rows), *self._files[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(self._file[rows]):
            here = np.flatnonzero(self._file[rows] == number)
            out[here] = self._files[number][self._row[rows[here]]]
        return out


def _open(
    path: Path, spec: Mapping[str, Any], tiles: Sequence[str] | None
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    facts = read_metadata(path)
    if not {"obs_id", "spec", "identity"} <= set(facts):
        raise InputError(path, f"has no index {path.name}.json next to it.", _AGAIN, code="pixels-index")
    if not same_spec(facts["spec"], spec):
        raise InputError(path, f"holds tiles of another spec ({facts['spec']}).", _AGAIN, code="pixels-spec")
    if tiles is not None and facts["identity"]["inputs"]["tiles"] not in tiles:
        raise InputError(path, "was packed from other tiles than the target's.", _AGAIN, code="pixels-other-tiles")
    size = int(spec["size_px"])
    try:
        packed = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(path, f"is cut short or damaged ({error}).", _AGAIN, code="pixels-truncated") from error
    if packed.shape != (len(facts["obs_id"]), size, size, 3) or packed.dtype != np.uint8:
        raise InputError(path, f"has shape {packed.shape}, not its index's.", _AGAIN, code="pixels-truncated")
    return packed, facts


def pixel_keys(path: Path) -> pd.DataFrame:
    """Return cohort, sample and obs_id of a packed file's rows."""
    return _key_table(read_metadata(path))


def _key_table(facts: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame({"cohort": facts["cohort"], "sample": facts["sample"], "obs_id": facts["obs_id"]})
