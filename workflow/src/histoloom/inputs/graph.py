"""Which spots of a section are neighbours, by a named rule.

============  ===========================================================================
rule          neighbours
============  ===========================================================================
``square4``   the 4 next to a spot in its row and column of a square array
``square8``   these and the 4 diagonal ones
``hex6``      the 6 at one pitch on a hexagonal array (Visium)
``published`` Hist2Cell's code: |column| < 3 and |row| < 2; hex6 on Visium, 14 lopsided neighbours on a square array
a number      all spots at most so many um away, on the array's own lattice
============  ===========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from histoloom.errors import InputError
from histoloom.lattice import HEXAGONAL, MIN_HEXAGONAL, SQUARE, lattice_of, neighbours, positions_um

if TYPE_CHECKING:
    import pandas as pd

# Between one pitch and the next distance of the lattice.
RULES = {"square4": (SQUARE, 1.2), "square8": (SQUARE, 1.6), "hex6": (HEXAGONAL, 1.2)}


def section_graph(obs: pd.DataFrame, rule: str | float) -> csr_array:
    """Return the (n, n) symmetric 0/1 matrix of a section's neighbours, without the diagonal."""
    where = f"{obs['cohort'].iloc[0]}/{obs['sample'].iloc[0]}"
    if "array_row" not in obs or obs[["array_row", "array_col"]].isna().to_numpy().any():
        problem = "has no array coordinates, so there is no graph of its spots."
        remedy = "use a model without a graph, or give array_row and array_col."
        raise InputError(where, problem, remedy, code="graph-coordinates")
    row, column = obs["array_row"].to_numpy(float), obs["array_col"].to_numpy(float)
    if not isinstance(rule, str):
        return neighbours(positions_um(row, column, float(obs["pitch_um"].iloc[0])), float(rule))
    if rule == "published":
        apart = np.maximum(abs(row[:, None] - row) / 2, abs(column[:, None] - column) / 3)
        np.fill_diagonal(apart, 1)
        return csr_array((apart < 1).astype(np.float32))
    if rule not in RULES:
        known = f"use {', '.join(RULES)}, published or a radius in um."
        raise InputError("graph", f"'{rule}' is no rule.", known, code="graph-rule")
    lattice, radius = RULES[rule]
    detected = lattice_of(row, column)
    # Few spots do not show their kind: they may be hexagonal where row + column is of one parity.
    hexagonal = len(row) < MIN_HEXAGONAL and np.unique(np.rint(row + column) % 2).size == 1
    if detected != lattice and len(np.unique(row)) > 1 and not (lattice == HEXAGONAL and hexagonal):
        problem = f"is a {detected} array; {rule} is for {lattice} ones."
        fitting = [name for name, (kind, _) in RULES.items() if kind == detected]
        remedy = f"use {' or '.join(fitting)}, published or a radius in um."
        raise InputError(where, problem, remedy, code="graph-lattice")
    return neighbours(positions_um(row, column, 1.0, lattice), radius)
