"""The sections of an embedding job: what is checked before a pixel is read, and the parts that survive a kill."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import identity_of, read_metadata
from histoloom.embeddings.artefact import write_embeddings
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.tiles.spec import TileSpec, same_spec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Section:
    """One section to embed, with its kept tiles only."""

    sample: str
    slide: Path | None  # None: an encoder of counts looks at no pixel
    facts: Mapping[str, Any]  # metadata of its table of tiles
    obs_id: npt.NDArray[np.object_]
    centres: npt.NDArray[np.float64]  # (n, 2), level-0 px
    identity: str  # of its table of tiles, which covers section and slide
    path: Path  # the section (h5ad)

    def __len__(self) -> int:
        return len(self.obs_id)


def open_sections(
    cohort: str, samples: Sequence[Path], slides: Sequence[Path], tiles: Sequence[Path], tiles_spec: Mapping[str, Any]
) -> list[Section]:
    """Read the tables of tiles and check that everything belongs together."""
    seen: Sequence[Path | None] = slides or [None] * len(samples)
    sections = [_open(cohort, *paths, tiles_spec=tiles_spec) for paths in zip(samples, seen, tiles, strict=True)]
    names = [section.sample for section in sections]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problem = f"samples given twice: {', '.join(twice)}."
        raise InputError(f"cohort {cohort}", problem, "name each sample once.", code="sections-twice")
    return sections


def _open(cohort: str, sample: Path, slide: Path | None, tiles: Path, *, tiles_spec: Mapping[str, Any]) -> Section:
    facts, of_sample = read_metadata(tiles), read_metadata(sample)
    again = "cut the tiles again."
    if "spec" not in facts:
        raise InputError(tiles, "carries no tile spec: it is no table of tiles.", again, code="tiles-no-spec")
    if not same_spec(facts["spec"], tiles_spec):
        problem = f"was cut by another tile spec: {facts['spec']}, not {TileSpec.from_dict(tiles_spec).as_dict()}."
        raise InputError(tiles, problem, again, code="tiles-spec")
    key = (facts["cohort"], facts["sample"])
    if key != (of_sample.get("cohort"), of_sample.get("sample")) or facts["cohort"] != cohort:
        problem = f"belongs to {key[0]}/{key[1]}, not to cohort '{cohort}' and section {sample}."
        raise InputError(tiles, problem, "give samples, slides and tiles in the same order.", code="tiles-section")
    if facts["identity"]["inputs"].get("sample") != identity_of(sample):
        raise InputError(tiles, f"was cut from another version of {sample}.", again, code="tiles-old")
    frame = pd.read_parquet(tiles)
    frame = frame[frame["kept"]]
    if frame.empty:
        remedy = "exclude the section in the sheet, or change the tile spec."
        raise InputError(tiles, "keeps no tile.", remedy, code="tiles-none")
    if frame["obs_id"].duplicated().any():
        problem = f"obs_id '{frame['obs_id'][frame['obs_id'].duplicated()].iloc[0]}' appears twice."
        raise InputError(tiles, problem, again, code="tiles-obs-twice")
    return Section(
        sample=facts["sample"],
        slide=None if slide is None else Path(slide),
        facts=facts,
        obs_id=frame["obs_id"].to_numpy(dtype=object),
        centres=frame[["x", "y"]].to_numpy(dtype=np.float64),
        identity=identity_of(tiles),
        path=Path(sample),
    )


def load_part(scratch: Path, section: Section, identity: str, dim: int) -> npt.NDArray[np.float32] | None:
    """Return a section's features, (n, dim), a memory map, if an interrupted run has left them whole."""
    path = part_path(scratch, section, identity)
    if not path.is_file():
        return None
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
        if features.shape == (len(section), dim) and features.dtype == np.float32:
            return features
        logger.warning("%s has another shape than expected; the section is embedded again", path)
    except (OSError, ValueError, EOFError):
        logger.warning("%s is damaged; the section is embedded again", path)
    return None


class PartWriter:
    """A section's features on their way to disk, batch by batch; the file gets its name when it is whole."""

    def __init__(self, scratch: Path, section: Section, identity: str, dim: int) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.path = part_path(scratch, section, identity)
        self._left = len(section)
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part")
        self._handle = self._temporary.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(section), dim)}
        np.lib.format.write_array_header_1_0(self._handle, header)

    def add(self, features: npt.NDArray[np.float32]) -> bool:
        """Take the next features; return whether the section is complete."""
        self._write(features)
        self._left -= len(features)
        if self._left > 0:
            return False
        self._close()
        os.replace(self._temporary, self.path)
        return True

    def _write(self, features: npt.NDArray[np.float32]) -> None:
        self._handle.write(np.ascontiguousarray(features, "<f4").tobytes())

    def _close(self) -> None:
        self._handle.close()

    def discard(self) -> None:
        self._close()
        self._temporary.unlink(missing_ok=True)


def part_path(scratch: Path, section: Section, identity: str) -> Path:
    """Return where a section's part lies; its name tells what it was made from."""
    return scratch / f"{section.sample}.{identity[:16]}.npy"


def write_sections(
    out: Path,
    cohort: str,
    batch: str,
    sections: Sequence[Section],
    features: Sequence[npt.NDArray[np.float32]],
    *,
    stage: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    **facts: Any,
) -> None:
    """Write the features of sections, one array each, and their metadata; facts are the encoder's part of it."""
    names = [section.sample for section in sections]
    params = {**params, "cohort": cohort, "samples": names}
    inputs = {f"tiles.{section.sample}": section.identity for section in sections} | dict(inputs or {})
    own = {"cohort": cohort, "batch": batch, "samples": names, "n_tiles": [len(section) for section in sections]}
    write_embeddings(
        out,
        features=features,
        coords=np.concatenate([section.centres for section in sections]),
        sample=[section.sample for section in sections for _ in range(len(section))],
        obs_id=[str(obs_id) for section in sections for obs_id in section.obs_id],
        metadata={**own, **facts, "identity": make_identity(stage, params, inputs)},
    )
