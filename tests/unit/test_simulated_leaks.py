"""The simulated effect of stains by patient, as a leakage effect: leave-section-out over leave-patient-out, matched."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from histoloom_simulation.celltypes import PATIENT_ONLY
from simulated_world import SimulatedWorld
from simulation_fixtures import SHEET, sheet_rows


def config(sheet: Path) -> dict[str, Any]:
    """One cohort twice, with and without stains of each patient's own; all scanned alike, labels are the ground truth."""
    cohort = {"source": "simulated", "sheet": str(sheet), "seed": 5, "array_x": 10, "array_y": 8}
    learn = {"task": "evaluate", "tiles": "um112", "labels": "truth", "models": ["ridge"], "split": "paired_leakage",
             "content_guard": "off"}  # fmt: skip
    return {
        "cohorts": {
            "stained": cohort,
            "alike": {**cohort, "effects": {"stain_by_patient": False}},
        },
        "tiles": {"um112": {"size_px": 224, "um_per_px": 0.5}},
        "labels": {"truth": {"method": "truth"}},
        "encoders": {"texture": {"card": "stain_texture", "tiles": "um112"}},
        "models": {"ridge": {"kind": "ridge", "inputs": ["texture"]}},
        "experiments": {name: {**learn, "cohorts": [name]} for name in ("stained", "alike")},
    }


@pytest.mark.slow
def test_stains_by_patient_make_a_leak_pay_and_without_them_it_hardly_does(tmp_path: Path) -> None:
    rows = [{**row, "mpp": "0.69"} for row in sheet_rows()]
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text("\n".join("\t".join(line) for line in [list(rows[0]), *(list(r.values()) for r in rows)]) + "\n")
    effect = {}
    with contextlib.chdir(tmp_path):
        world = SimulatedWorld(config(sheet), SHEET.parent.parent / "config.yaml")
        for name in ("stained", "alike"):
            found = world.score(name, "ridge", "leaks")
            # A type set by the patient alone has no map within sections to be learnt, with or without a sibling.
            found = found[(found["metric"] == "leakage_effect") & ~found["target"].isin(["", PATIENT_ONLY])]
            effect[name] = found[found["aggregation"] == "cohort"]["value"].mean()
    assert effect["stained"] > 0.04, effect
    assert abs(effect["alike"]) < 0.02, effect
    assert effect["stained"] > effect["alike"] + 0.03, effect
