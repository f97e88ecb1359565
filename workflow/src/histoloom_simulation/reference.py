"""The simulated single-cell reference: the same types, from other donors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histoloom_simulation.celltypes import all_types, reference_types, rna_content
from histoloom_simulation.counts import gene_names, negative_binomial, signatures
from histoloom_simulation.options import SimulationOptions, random_stream

_ASSAYS = (("10x 3' v2", 0.6), ("10x 3' v3", 1.0))


def write_reference(*, spec: Mapping[str, Any], out: Path) -> None:
    """Write the reference of a simulated cohort.

    Donors are not in the cohort; each shifts every gene a little, has its own depth and assay, and its own number
    of cells per type. One type is absent from the tissue and one tissue type is missing here, where the effects say so.

    Parameters
    ----------
    spec
        Validated cohort entry; ``reference`` holds donors and cells_per_type.
    out
        The h5ad: X raw counts CSR int32 (cells x genes), obs cell_type, donor, assay.
    """
    import anndata as ad
    import pandas as pd
    from scipy.sparse import csr_matrix, vstack

    options, seed = SimulationOptions.from_spec(spec), int(spec["seed"])
    chosen = spec["reference"]
    genes = gene_names(int(spec["generic_genes"]))
    by_name = {t.name: (i, t) for i, t in enumerate(all_types())}
    profile = signatures(seed, genes)
    blocks: list[Any] = []
    rows: list[tuple[str, str, str]] = []
    for d in range(int(chosen["donors"])):
        donor, (assay, efficiency) = f"D{d + 1}", _ASSAYS[d % len(_ASSAYS)]
        rng = random_stream(seed, "donor", donor)
        shift = np.exp(rng.normal(0, 0.2, len(genes)))
        for name in reference_types(options):
            own = random_stream(seed, "donor", donor, name)
            i, cell_type = by_name[name]
            mean_cells = int(chosen["cells_per_type"]) / int(chosen["donors"])
            n = max(round(mean_cells * own.uniform(0.6, 1.4)), 2)
            expected = profile[i] * shift
            expected = expected / expected.sum()
            size = own.lognormal(0, 0.35, n) * efficiency * float(chosen["umi_per_cell"])
            size *= rna_content(cell_type, options.rna_content)
            counts = negative_binomial(own, size[:, None] * expected, float(spec["dispersion"]))
            blocks.append(csr_matrix(counts))
            rows.extend((name, donor, assay) for _ in range(n))
    obs = pd.DataFrame(rows, columns=["cell_type", "donor", "assay"])
    order = random_stream(seed, "reference order").permutation(len(obs))
    obs = obs.iloc[order]
    obs.index = pd.Index([f"cell{i:05d}" for i in range(len(obs))])
    matrix = vstack(blocks, format="csr")[order].astype(np.int32)
    ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(genes))).write_h5ad(out, compression="gzip")
