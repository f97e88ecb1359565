"""Raw counts of observations by row, on the genes that all sections have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histoloom.inputs.base import Index, locate
from histoloom.samples.section import open_section
from histoloom.targets.sections import common_genes

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Expression:
    """Counts of observations from section artefacts; ``genes`` names the columns."""

    def __init__(self, obs: pd.DataFrame, samples: Sequence[Path]) -> None:
        self._paths = [Path(path) for path in samples]
        sections = [open_section(path) for path in self._paths]
        names = [section.var.index for section in sections]
        self.genes = common_genes(names, self._paths)
        self._columns = [own.get_indexer(pd.Index(self.genes)) for own in names]
        keys = [s.obs[["cohort", "sample"]].assign(obs_id=s.obs.index) for s in sections]
        self._file, self._row = locate(obs, keys, "expression", "read the sections again.")

    def __call__(self, rows: Index) -> csr_array:
        from scipy.sparse import csr_array, vstack

        parts, order = [], []
        for number in np.unique(self._file[rows]):
            here = np.flatnonzero(self._file[rows] == number)
            counts = csr_array(open_section(self._paths[number]).counts)[self._row[rows[here]]]
            parts.append(counts[:, self._columns[number]])
            order.append(here)
        back = np.argsort(np.concatenate(order), kind="stable")
        return csr_array(vstack(parts, format="csr"))[back]
