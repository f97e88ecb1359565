"""The one reader of a canonical section (`histoloom.samples.canonical`), part by part and without anndata."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import KEY, read_elements
from histoloom.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

KEYS = ("cohort", "sample", "patient")


class Section:
    """A section artefact; each part is read at its first use.

    `metadata`: the artefact's facts: cohort, sample, patient, qc_flag, mpp, pitch_um, spot_diameter_um, identity.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = json.loads(read_elements(path, [f"uns/{KEY}"]).get(f"uns/{KEY}", "{}"))
        if not {"cohort", "sample"} <= set(self.metadata):
            problem = "it states no cohort and sample: no section of this workflow."
            raise InputError(path, problem, "give a file of results/samples/.", code="section-metadata")
        self.cohort, self.sample, self.patient = (str(self.metadata.get(key, "")) for key in KEYS)

    def _read(self, name: str) -> Any:
        elements = read_elements(self.path, [name])
        if name not in elements:
            raise InputError(self.path, f"it has no {name}.", "remove it and run again.", code="section-incomplete")
        return elements[name]

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Columns as stored, index obs_id, and first the categories cohort, sample, patient."""
        table: pd.DataFrame = self._read("obs")
        for position, key in enumerate(KEYS):
            name = getattr(self, key)
            table.insert(position, key, pd.Series(name, index=table.index, dtype=pd.CategoricalDtype([name])))
        return table

    @cached_property
    def var(self) -> pd.DataFrame:
        """Columns as stored, index the genes' names."""
        table: pd.DataFrame = self._read("var")
        return table

    @cached_property
    def spatial(self) -> npt.NDArray[np.float64]:
        """Centres, (n, 2): column, row in level-0 px."""
        return np.asarray(self._read("obsm/spatial"), dtype=np.float64)

    @cached_property
    def counts(self) -> csr_matrix:
        from scipy.sparse import csr_matrix

        return csr_matrix(self._read("X"))

    def picture(self, *names: str) -> npt.NDArray[np.uint8] | None:
        """Return the first stored picture of these names (lowres, hires), (h, w, 3); None where there is none."""
        for name in names:
            pictures = read_elements(self.path, [f"uns/spatial/{self.sample}/images/{name}"])
            if pictures:
                return np.asarray(next(iter(pictures.values())))
        return None


def open_section(path: str | Path) -> Section:
    return Section(Path(path))
