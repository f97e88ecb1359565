"""Numbers of the demo's cohort stay what they were before models, inputs and targets were rebuilt."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support import ROOT, run

GOLDEN = ROOT / "tests" / "workflow" / "golden.tsv"
KEYS = ["model", "against"]


@pytest.mark.workflow
@pytest.mark.slow
def test_headlines_of_the_demos_cohort_stay(tmp_path: Path) -> None:
    target = "results/tables/golden/summary.csv"
    run(tmp_path, target, config=ROOT / "tests" / "workflow" / "golden.yaml")
    got = pd.read_csv(tmp_path / target).set_index(KEYS)
    expected = pd.read_csv(GOLDEN, sep="\t", comment="#").set_index(KEYS)
    # The tables hold six decimals; features and predictions are float32 on their way.
    pd.testing.assert_frame_equal(got.loc[expected.index, expected.columns], expected, rtol=0, atol=2e-5)
