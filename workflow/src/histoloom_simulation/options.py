"""What the generator was asked for: the validated cohort entry, and one random stream per purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoloom.errors import InputError


def random_stream(seed: int, *names: object) -> np.random.Generator:
    """Return the random numbers of one purpose.

    Streams are named and independent, so that switching one effect off leaves every other draw as it was: two cohorts
    that differ in one switch are paired.

    Parameters
    ----------
    seed
        The cohort's seed.
    names
        What the numbers are for, e.g. ``"cells", "W", "W1"``.
    """
    digest = hashlib.sha256("/".join([str(seed), *map(str, names)]).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


@dataclass(frozen=True)
class SimulationOptions:
    """The simulated effects, `misspecification` already applied; meanings in ``cohort.simulated.schema.yaml``."""

    geometry: bool
    barcode: bool
    prevalence: bool
    same_morphology: bool
    patient_only_type: bool
    stain_by_patient: bool
    reference_only_type: bool
    tissue_only_type: bool
    rna_content: float
    depth_ratio: float
    zero_umi_spot: bool
    spot_bleed: float
    platform_effect: float
    patient_expression: float
    pairs: bool
    true_mpp: Mapping[str, float]
    same_person: Mapping[str, str]

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> SimulationOptions:
        """Read the ``effects`` of a validated cohort entry; with ``misspecification: false`` that group is off."""
        chosen = dict(spec["effects"])
        if not chosen.pop("misspecification"):
            chosen.update(tissue_only_type=False, spot_bleed=0.0, platform_effect=0.0, patient_expression=0.0)
        return cls(**chosen)


@dataclass(frozen=True)
class Section:
    """Who a section is and how it is seen.

    Attributes
    ----------
    sample, patient
        Names that choose the tissue; those of the other person where ``same_person`` says so.
    rank, n_patients
        Place of the patient in the sheet, and how many patients it has.
    order
        Place of the section among its patient's sections, from 0.
    mpp
        Micrometres per pixel the picture is drawn with.
    pitch_um, spot_um
        Nominal distance between spot centres and diameter of a spot, um.
    """

    sample: str
    patient: str
    rank: int
    n_patients: int
    order: int
    mpp: float
    pitch_um: float
    spot_um: float

    @property
    def fraction(self) -> float:
        """The patient's rank scaled to [0, 1]."""
        return self.rank / max(self.n_patients - 1, 1)


def _number(row: Mapping[str, str], key: str) -> float:
    try:
        value = float(row[key])
    except (KeyError, ValueError):
        value = float("nan")
    if not value > 0:
        raise InputError(
            f"sample sheet, sample {row.get('sample', '?')}, column {key}",
            f"a simulated section needs a positive number, found '{row.get(key, '')}'.",
            "fill the cell; the slide is drawn from it.",
            code="simulation-number",
        )
    return value


def describe_section(spec: Mapping[str, Any], row: Mapping[str, str], options: SimulationOptions) -> Section:
    """Work out who a row of the sheet is.

    Parameters
    ----------
    spec
        Validated cohort entry with ``sheet_rows``, all rows of the sheet.
    row
        The row to draw.
    options
        The cohort's options.

    Raises
    ------
    InputError
        If a size in the row is no positive number, or ``same_person`` names a sample that the sheet lacks.
    """
    rows = {r["sample"]: r for r in spec["sheet_rows"]}
    rows.setdefault(row["sample"], dict(row))
    source = options.same_person.get(row["sample"], row["sample"])
    if source not in rows:
        raise InputError(
            f"effects.same_person.{row['sample']}",
            f"'{source}' is no sample of the sheet; it has {', '.join(rows)}.",
            "name a sample of the same sheet (the cohort may still leave it out with `samples:`).",
            code="simulation-same-person",
        )
    originals = [r for s, r in rows.items() if s not in options.same_person]
    patients = list(dict.fromkeys(r["patient"] for r in originals)) or [rows[source]["patient"]]
    patient = rows[source]["patient"]
    if patient not in patients:
        patients.append(patient)
    siblings = [s for s, r in rows.items() if r["patient"] == patient]
    return Section(
        sample=source,
        patient=patient,
        rank=patients.index(patient),
        n_patients=len(patients),
        order=siblings.index(source),
        mpp=float(options.true_mpp.get(row["sample"], 0)) or _number(row, "mpp"),
        pitch_um=_number(row, "pitch_um"),
        spot_um=_number(row, "spot_diameter_um"),
    )
