"""Changes of expression that look at more than one observation: protocols of papers, stamped on every number.

Both change the truth that models are scored against, not only what they are trained on.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array, diags_array, vstack

from histoloom.errors import InputError
from histoloom.lattice import HEXAGONAL, lattice_of, neighbours, positions_um
from histoloom.obs_keys import section_keys

logger = logging.getLogger(__name__)


def smooth(values: csr_array, obs: pd.DataFrame) -> csr_array:
    """Return each observation's mean over itself and its neighbours in the section.

    The 8 neighbours of a square array, the 6 of a hexagonal one, as far as they are observations; TRIPLEX (Chung et
    al., CVPR 2024) trains and tests on such values. Random noise that no picture shows is averaged out of the truth.
    """
    values = csr_array(values, copy=True)
    parts, order = [], []
    for name, rows in obs.groupby(section_keys(obs).to_numpy(), sort=False).indices.items():
        array = obs.iloc[rows]
        if "array_row" not in array or array[["array_row", "array_col"]].isna().to_numpy().any():
            remedy = "set `smoothing: none`, or give array_row and array_col."
            raise InputError(
                str(name), "has no array coordinates to smooth over.", remedy, code="smoothing-coordinates"
            )
        row, column = array["array_row"].to_numpy(float), array["array_col"].to_numpy(float)
        lattice = lattice_of(row, column)
        radius = 1.2 if lattice == HEXAGONAL else 1.6
        near = neighbours(positions_um(row, column, 1.0, lattice), radius, include_self=True)
        share = diags_array(1 / np.asarray(near.sum(axis=1)).ravel())
        parts.append(csr_array(share @ near @ values[rows]))
        order.append(rows)
    back = np.argsort(np.concatenate(order))
    return csr_array(csr_array(vstack(parts, format="csr"))[back])


def harmonise(values: csr_array, obs: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Return (n, genes) values after Harmony with each section as a batch, on gene columns as if they were components.

    BLEEP's public code does so, test sections included (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0). Values
    may be negative. Harmony has returned its result in either orientation; the one that fits the input is taken.
    """
    from harmonypy import run_harmony

    batch = pd.DataFrame({"section": section_keys(obs).to_numpy()})
    if batch["section"].nunique() < 2:
        remedy = "set `batch_correction: none`."
        raise InputError("target.batch_correction", "harmony needs two sections.", remedy, code="harmony-sections")
    x = np.asarray(values.toarray(), np.float64)
    # Columns as observations: with as many genes as observations the other way round would be taken for this one.
    fitted = run_harmony(np.ascontiguousarray(x.T), batch, ["section"], random_state=0, ncores=1, verbose=False)
    corrected = np.asarray(fitted.Z_corr, np.float64)
    fits = [c for c in (corrected, corrected.T) if c.shape == x.shape]
    if not fits:
        raise ValueError(f"Harmony returned {corrected.shape} for {x.shape}")
    best = min(fits, key=lambda c: float(np.abs(c - x).sum()))
    logger.info("Harmony moved values by %.3g on average", float(np.abs(best - x).mean()))
    return best.astype(np.float32)
