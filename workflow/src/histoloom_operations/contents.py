"""Open what a run will open, before it begins: slides, positions, references; and who is in training and on slides."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from histoloom import kinds
from histoloom.errors import Collected
from histoloom.plan import Plan
from histoloom.samples.canonical import cell_number
from histoloom.samples.geometry import decide_mpp
from histoloom.samples.roi import read_roi
from histoloom.samples.tables import read_positions
from histoloom.slides import open_slide

_OWN = frozenset({"files", "visium", "slides"})
"""Sources whose files are the user's own; those of others are described by their publishers."""

_FILES_STATE_PITCH = frozenset({"visium"})
"""Own sources whose files state the array's pitch, so that um per pixel never depends on the sheet and slide alone."""


def check_contents(plan: Plan, sections: Collection[tuple[str, str]] | None = None) -> None:
    """Raise one error of all that is wrong inside own sections (None: all of the run) and references that are there."""
    faults = Collected()
    for cohort, sample in plan.sections_of_run() if sections is None else sections:
        if plan.sections.entry(cohort)["source"] in _OWN:
            with faults.each():
                _open_section(plan, cohort, sample)
    references = [plan.labels.entry(labels).get("reference") for labels, _ in plan.labels_of_run()]
    for reference in dict.fromkeys(filter(None, references)):
        spec = plan.labels.reference_spec(reference)
        files = {role: [Path(p) for p in paths] for role, paths in plan.labels.reference_files(reference).items()}
        if all(path.exists() for paths in files.values() for path in paths):
            with faults.each():
                kinds.load("references", spec["source"])(files, spec)
    faults.stop()


def _open_section(plan: Plan, cohort: str, sample: str) -> None:
    """Open a section's slide and positions, and find um per pixel as the reader will."""
    row, entry, reader = plan.sections.row(cohort, sample), plan.sections.entry(cohort), plan.sections.reader(cohort)
    faults = Collected()
    # What is missing is reported by `Plan.check_files`, or made by the run.
    files = {role: path for role, path in plan.sections.files(cohort, sample).items() if Path(path).exists()}
    where = f"{plan.config.sheet_paths[cohort]}: row of sample '{sample}'"
    if "positions" in files:
        with faults.each():
            read_positions(Path(files["positions"]), array_optional=entry["source"] == "files")
    if "roi" in files:
        with faults.each():
            read_roi(Path(files["roi"]))
    if "image" in files:
        with faults.each():
            with open_slide(Path(files["image"])) as slide:
                embedded = slide.mpp
            pitch = row.get("pitch_um") or reader.implied(row, entry).get("pitch_um")
            if not (reader.has_array and pitch) and entry["source"] not in _FILES_STATE_PITCH:
                decides = row.get("mpp_decides") == "yes"
                decide_mpp(sheet=cell_number(row, "mpp", where), embedded=embedded, sheet_decides=decides, where=where)
    faults.stop()


def shared_patients(plan: Plan) -> dict[str, list[str]]:
    """Return, by experiment that applies models, the patients of its slides that the models were trained on."""
    shared: dict[str, list[str]] = {}
    for name in plan.experiments.named("apply"):
        source = plan.experiments.entry(name).get("from")
        if source:
            trained = {row["patient"] for row in plan.experiments.rows(source)}
            both = {row["patient"] for row in plan.experiments.rows(name)} & trained
            shared |= {name: sorted(both)} if both else {}
    return shared
