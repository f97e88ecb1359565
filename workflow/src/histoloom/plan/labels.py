"""Labels: groups of sections, what each job reads, and single-cell references."""

from __future__ import annotations

from typing import Any

from histoloom import kinds, paths
from histoloom.config import Config
from histoloom.errors import InputError
from histoloom.kind_entries import LabelsKind
from histoloom.paths import HalfLabels
from histoloom.plan.sections import Sections
from histoloom.schemas import fill_defaults, load_schema

# Where a file lies is tracked as an input, by its content; a moved mirror must not refit a reference.
_PATHS = frozenset({"path", "folder", "annotation"})
_NOT_SCIENCE = frozenset({"seeds", "fits_per_job", "path"})
Fit = tuple[str, int, list[str]]  # group, seed, the group's sections


class Labels:
    """Label methods and references."""

    def __init__(self, config: Config, sections: Sections) -> None:
        self.config, self.sections = config, sections
        self._groups: dict[tuple[str, str], dict[str, list[str]]] = {}

    def entry(self, labels: str) -> dict[str, Any]:
        """Return a label method's entry; that of half of the counts is its method's, with one seed.

        The second half takes the next seed: with one seed for both, the noise of the optimiser would be common to the
        halves and look like something that counts say.
        """
        half = self._half(labels)
        if half is None:
            return self.config.get("labels", labels)
        entry = self.config.get("labels", half.labels)
        first = next(iter(entry.get("seeds") or [0]))
        return {**entry, "seeds": [first + half.half]}

    def _half(self, labels: str) -> HalfLabels | None:
        return None if labels in self.config.entries["labels"] else HalfLabels.parse(labels)

    def spec(self, labels: str) -> dict[str, Any]:
        """Return what of a label method's entry decides the labels of one seed: one more must not refit the others."""
        return {key: value for key, value in self.entry(labels).items() if key not in _NOT_SCIENCE}

    def kind(self, labels: str) -> LabelsKind:
        return kinds.LABELS[self.entry(labels)["method"]]

    def threads(self, labels: str) -> int:
        """Return the threads of a label job: they change floats, so the config decides, not the machine."""
        return int(self.entry(labels).get("fit_threads", 1))

    def groups(self, labels: str, cohort: str) -> dict[str, list[str]]:
        """Return sections by deconvolution group; the group's name is a patient, a section or ``all``."""
        group_by = "cohort" if self.kind(labels).whole_cohort else self.entry(labels)["group_by"]
        # Asked for once per job, of which there may be thousands.
        if (cohort, group_by) in self._groups:
            return self._groups[cohort, group_by]
        groups = self._groups[cohort, group_by] = {}
        for row in self.sections.rows(cohort):
            name = {"patient": row["patient"], "section": row["sample"], "cohort": "all"}[group_by]
            groups.setdefault(name, []).append(row["sample"])
        return groups

    def seeds(self, labels: str) -> list[int]:
        return list(self.entry(labels).get("seeds") or [0])

    def jobs(self, labels: str, cohort: str) -> dict[str, list[Fit]]:
        """Return the fits of each label job by the job's name."""
        entry, seeds = self.entry(labels), self.seeds(labels)
        fits = [(group, seed, samples) for group, samples in self.groups(labels, cohort).items() for seed in seeds]
        size = entry.get("fits_per_job")
        if size is None:
            size = len(fits) if entry.get("max_epochs", 1) < entry.get("demo_below_epochs", 0) else 1
        if size == 1:
            return {f"{group}.{seed}": [(group, seed, samples)] for group, seed, samples in fits}
        return {f"part{start // size}": fits[start : start + size] for start in range(0, len(fits), size)}

    def fits(self, labels: str, cohort: str, part: str) -> list[Fit]:
        return self.jobs(labels, cohort)[part]

    def part_files(self, labels: str, cohort: str) -> list[str]:
        return [paths.LABELS_PART.format(labels=labels, cohort=cohort, part=part) for part in self.jobs(labels, cohort)]

    def job_inputs(self, labels: str, cohort: str, part: str) -> dict[str, list[str]]:
        """Return what the fits of a label job read, by role."""
        files: dict[str, list[str]] = {}
        for group in dict.fromkeys(group for group, _, _ in self.fits(labels, cohort, part)):
            for role, of_group in self.inputs(labels, cohort, group).items():
                files[role] = list(dict.fromkeys([*files.get(role, []), *of_group]))
        return files

    def inputs(self, labels: str, cohort: str, group: str) -> dict[str, list[str]]:
        """Return what the labels of a group are made from, by role."""
        half, pairs = self._half(labels), [(cohort, sample) for sample in self.groups(labels, cohort)[group]]
        counts = paths.fill(paths.THINNED, half=half.half, seed=half.seed) if half else paths.SAMPLE
        reference = self.entry(labels).get("reference")
        return {
            "samples": paths.each(counts, pairs),
            "reference": [paths.REFERENCE.format(reference=reference)] if reference else [],
            "tables": self.tables(labels, cohort, group),
            "nuclei": self._nuclei(labels, cohort, group),
            "genes": self.genes(reference, cohort) if reference else [],
        }

    def tables(self, labels: str, cohort: str, group: str) -> list[str]:
        """Return the published tables, the user's own, or the simulation's ground truth, that a label job reads."""
        reads, source = self.kind(labels).reads, self.sections.entry(cohort)["source"]
        if reads == "counts":
            return []
        if reads == "file":
            path = self.config.place(self.entry(labels)["path"], f"labels.{labels}.path").replace("{cohort}", cohort)
            names = [path.replace("{sample}", s) for s in self.groups(labels, cohort)[group]]
            return list(dict.fromkeys(names))
        if reads == "table":
            tables, name = self.sections.tables(cohort), self.entry(labels)["table"]
            if name not in tables:
                where = f"{self.config.origin}: labels.{labels}.table"
                own = "for a table of your own use `method: table` with its `path`."
                remedy = f"tables: {', '.join(tables)}; {own}" if tables else own
                problem = f"source '{source}' of cohort '{cohort}' publishes no table '{name}'."
                raise InputError(where, problem, remedy, "labels-no-table")
            return [tables[name]]
        files = [self.sections.all_files(cohort, s).get("truth", "") for s in self.groups(labels, cohort)[group]]
        if not all(files):
            where, remedy = f"{self.config.origin}: labels.{labels}", "use `truth` labels with simulated cohorts only."
            problem = f"source '{source}' of cohort '{cohort}' has no simulated ground truth."
            raise InputError(where, problem, remedy, "labels-no-truth")
        return files

    def _nuclei(self, labels: str, cohort: str, group: str) -> list[str]:
        """Return the counted nuclei that a label job expects cells by; none where its cohort is read without slides.

        Halves of the counts have the nuclei of the whole: their cells did not change.
        """
        if self.entry(labels).get("n_cells_per_location") != "nuclei":
            return []
        pairs = [(cohort, sample) for sample in self.groups(labels, cohort)[group]]
        return paths.each(paths.NUCLEI, [pair for pair in pairs if "image" in self.sections.files(*pair)])

    # references ----------------------------------------------------------------------------------------------

    def reference_files(self, reference: str) -> dict[str, list[str]]:
        entry = self.config.get("references", reference)
        if kinds.REFERENCES[entry["source"]].simulated:
            return {"h5ad": [f"{self.config.raw_dir}/simulated/{entry['cohort']}/reference.h5ad"]}
        if "path" in entry:
            return {"h5ad": [self.config.place(entry["path"], f"references.{reference}.path")]}
        return {
            f"{role}s": [self.config.place(part[role], f"references.{reference}.samples") for part in entry["samples"]]
            for role in ("folder", "annotation")
        }

    def reference_spec(self, reference: str) -> dict[str, Any]:
        """Return a reference's entry without the paths of its files; a simulated one is read as any h5ad."""
        entry = dict(self.config.get("references", reference))
        if kinds.REFERENCES[entry["source"]].simulated:
            fill_defaults(entry, load_schema("reference.h5ad"))
        if "samples" in entry:
            entry["samples"] = [{k: v for k, v in s.items() if k not in _PATHS} for s in entry["samples"]]
        return {key: value for key, value in entry.items() if key not in _PATHS}

    def genes(self, reference: str, cohort: str) -> list[str]:
        """Return the table of genes for sections and a reference; the simulation's two have one vocabulary."""
        simulated = kinds.REFERENCES[self.config.get("references", reference)["source"]].simulated
        origin = "simulated" if simulated else f"reference {reference}"
        return self.sections.gene_table([self.sections.gene_origin(cohort), origin])
