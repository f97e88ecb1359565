"""The ceiling of expression by thinning: known reliabilities of Poisson counts."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from error_codes import has_code
from histoloom.artefacts import Table, write_table
from histoloom.checks.base import draw_check, run_check
from histoloom.config import check, load_schema
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.rows import read_metrics

N, GENES = 4000, ["flat", "varied", "other"]
RECIPE = {"size_factor": "none", "target_sum": 10000, "log": "none"}


def world(folder, recipe=RECIPE):
    """Return target and section: rates of 'varied' have mean 3 and variance 9, those of 'flat' are all 3."""
    rng = np.random.default_rng(0)
    rate = np.column_stack([np.full(N, 3.0), rng.gamma(1.0, 3.0, N), rng.gamma(4.0, 2.0, N)])
    names = [f"o{i}" for i in range(N)]
    data = anndata.AnnData(X=csr_matrix(rng.poisson(rate)), obs=pd.DataFrame({"array_row": np.arange(N),
                           "array_col": 0}, index=names), var=pd.DataFrame(index=GENES))  # fmt: skip
    data.obsm["spatial"] = np.zeros((N, 2))
    data.uns["histoloom"] = canonical_json(
        {"cohort": "c", "sample": "s", "patient": "p", "identity": make_identity("samples", {}, {})}
    )
    data.write_h5ad(folder / "s.h5ad")
    obs = pd.DataFrame({"cohort": "c", "sample": "s", "patient": "p", "obs_id": names})[::-1]
    facts = {"recipe": recipe, "identity": make_identity("targets", {}, {})}
    table = Table(obs.set_axis("c/s/" + obs["obs_id"]), pd.DataFrame(index=GENES[:2]), np.zeros((N, 2)), metadata=facts)
    write_table(table, folder / "target.h5ad")
    spec = {"kind": "expression_ceiling", "experiment": "e"}
    check(spec, load_schema("check.expression_ceiling"), "checks.top")
    return {"spec": {**spec, "name": "top"}, "labels": [folder / "target.h5ad"], "against": [folder / "s.h5ad"]}


def test_reliability_is_the_share_of_variance_that_is_not_counting_noise(tmp_path):
    run = world(tmp_path)
    run_check(**run, out=tmp_path / "m.parquet")
    rows = read_metrics([tmp_path / "m.parquet"])
    cohort = rows[rows["aggregation"] == "cohort"].pivot(index="target", columns="metric", values="value")
    # Whole counts: var(rate) / (var(rate) + mean(rate)) = 9 / 12.
    assert cohort.loc["varied", "reliability"] == pytest.approx(0.75, abs=0.03)
    assert cohort.loc["varied", "ceiling"] == pytest.approx(np.sqrt(0.75), abs=0.02)
    assert cohort.loc["flat", "reliability"] < 0.08
    assert set(rows["against"]) == {"halves"}
    draw_check(spec=run["spec"], metrics=tmp_path / "m.parquet", out=tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 0


def test_a_target_that_is_no_expression_is_refused(tmp_path):
    run = world(tmp_path, {"statistic": "mean"})
    with pytest.raises(InputError, check=has_code("ceiling-not-expression")):
        run_check(**run, out=tmp_path / "m.parquet")
