"""Sections, raw files, batches of embeddings, and groups of labels."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from histoloom import kinds
from histoloom.config import RESOURCES, Config, fill_defaults, load_schema
from histoloom.errors import InputError
from histoloom.plan.genes import GenePlan

Row = dict[str, str]
# Keys of a cohort that choose sections or find files; they do not change what is read from one.
_NOT_SCIENCE = frozenset({"sheet", "samples", "root", "outlines"})
# Where a file lies is tracked as an input, by its content; a moved mirror must not refit a reference.
_PATHS = frozenset({"path", "folder", "annotation"})


def _half(labels: str) -> tuple[str, str | None]:
    """Split the name of labels into that of their entry and, for labels of thinned counts, half and seed."""
    base, mark, half = labels.partition("-half")
    return (base, half) if mark else (labels, None)


def _sections_of(labels: str) -> str:
    """Return the folder of the sections that labels are made from."""
    half = _half(labels)[1]
    return "results/samples" if half is None else f"results/thinned/{half.replace('s', '.')}"


class SectionPlan(GenePlan):
    """The part of a plan that ends at labels.

    Parameters
    ----------
    config
        A validated config.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def entry(self, name: str, section: str) -> dict[str, Any]:
        """Return an entry of the config."""
        return self.config.get(section, name)

    def named_entry(self, name: str, section: str) -> dict[str, Any]:
        """Return an entry of the config with its name."""
        return {**self.config.get(section, name), "name": name}

    # sections ------------------------------------------------------------------------------------------------

    def row(self, cohort: str, sample: str) -> Row:
        """Return the sheet row of a section."""
        for row in self.config.sheets[cohort]:
            if row["sample"] == sample:
                return row
        raise InputError(str(self.config.sheet_paths.get(cohort, cohort)), f"no sample '{sample}'.", "fix the name.")

    def rows(self, cohort: str) -> list[Row]:
        """Return the rows that take part: in the subset, if one is named, and not excluded."""
        wanted = self.config.get("cohorts", cohort).get("samples")
        rows = [r for r in self.config.sheets[cohort] if not r.get("exclude")]
        rows = rows if wanted is None else [r for r in rows if r["sample"] in set(wanted)]
        if not rows:
            raise InputError(
                f"{self.config.origin}: cohorts.{cohort}",
                "no section takes part: all are excluded in the sheet or left out by `samples`.",
                "name at least one section that is not excluded.",
            )
        return rows

    def samples(self, cohort: str) -> list[str]:
        """Return the names of the sections that take part."""
        return [row["sample"] for row in self.rows(cohort)]

    def excluded(self) -> list[dict[str, str]]:
        """Return excluded sections with their reasons, for the report."""
        return [
            {"cohort": cohort, "sample": row["sample"], "patient": row["patient"], "reason": row["exclude"]}
            for cohort, sheet in self.config.sheets.items()
            for row in sheet
            if row.get("exclude")
        ]

    # raw files -----------------------------------------------------------------------------------------------

    def reader(self, cohort: str) -> Any:
        """Return the reader class of a cohort's source."""
        return kinds.load("sources", self.config.get("cohorts", cohort)["source"])

    def root(self, cohort: str) -> str:
        """Return the folder that a cohort's raw files lie in."""
        entry = self.config.get("cohorts", cohort)
        if kinds.SOURCES[entry["source"]].simulated:
            return f"{self.config.raw_dir}/simulated/{cohort}"
        if entry.get("root"):
            return str(entry["root"])
        if entry["source"] in self.downloaded_sources:
            return f"{self.config.raw_dir}/{entry['source']}"
        return str(self.config.sheet_paths[cohort].parent)

    @cached_property
    def downloaded_sources(self) -> list[str]:
        """Sources whose files are declared in ``resources/files/``."""
        return sorted(path.stem for path in (RESOURCES / "files").glob("*.tsv"))

    def sample_files(self, cohort: str, sample: str) -> dict[str, str]:
        """Return a section's raw files by role; ``image`` is the slide."""
        files = self.reader(cohort).files(
            self.row(cohort, sample), self.config.get("cohorts", cohort), self.root(cohort)
        )
        return {role: path for role, path in files.items() if role != "truth"}

    def outlines(self, cohort: str, sample: str, needed: bool = False) -> dict[str, str]:
        """Return the files of a section's outlines by what they outline; none where its source has none.

        Raises
        ------
        InputError
            If there are none and they are `needed`.
        """
        found = self._published_outlines(cohort, sample)
        if needed and not found:
            raise InputError(
                f"{self.config.origin}: cohorts.{cohort}",
                "has no outlines of cells.",
                "only source xenium publishes outlines, and `outlines: false` leaves them out.",
            )
        return {kind: f"results/samples/{cohort}/{sample}.{kind}.parquet" for kind in found}

    def outline_files(self, cohort: str, sample: str, outline: str) -> dict[str, str]:
        """Return what a section's outlines are made from, by role."""
        self.outlines(cohort, sample, needed=True)
        found, files = self._published_outlines(cohort, sample), self.sample_files(cohort, sample)
        return {"boundaries": found[outline], **{r: files[r] for r in ("experiment", "alignment") if r in files}}

    def _published_outlines(self, cohort: str, sample: str) -> dict[str, str]:
        entry, row = self.config.get("cohorts", cohort), self.row(cohort, sample)
        found: dict[str, str] = self.reader(cohort).polygons(row, entry, self.root(cohort))
        return found

    def slide(self, cohort: str, sample: str) -> str:
        """Return the path of a section's slide."""
        files = self.sample_files(cohort, sample)
        if "image" not in files:
            raise InputError(
                f"{self.config.origin}: cohorts.{cohort}",
                "is read without slides (`images: false`), but tiles are asked of it.",
                "set `images: true`, or use the cohort in checks only.",
            )
        return files["image"]

    def cohort_spec(self, cohort: str) -> dict[str, Any]:
        """Return what of a cohort's entry decides the content of its sections."""
        entry = self.config.get("cohorts", cohort)
        return {key: value for key, value in entry.items() if key not in _NOT_SCIENCE}

    def simulation_spec(self, cohort: str) -> dict[str, Any]:
        """Return the generator's whole input: the cohort's entry and all rows of its sheet."""
        return {**self.cohort_spec(cohort), "cohort": cohort, "sheet_rows": self.config.sheets[cohort]}

    # labels --------------------------------------------------------------------------------------------------

    def labels_entry(self, labels: str) -> dict[str, Any]:
        """Return a label method's entry; those of halves of the counts are their method's, with one seed.

        The second half takes the next seed: with one seed for both, the noise of the optimiser would be common to the
        halves and pass for something that counts say.
        """
        base, half = _half(labels)
        entry = self.config.get("labels", base)
        if half is None:
            return entry
        first = next(iter(entry.get("seeds") or [0]))
        return {**entry, "seeds": [first + int(half[0])]}

    def label_groups(self, labels: str, cohort: str) -> dict[str, list[str]]:
        """Return sections by deconvolution group; the group's name is a patient, a section or ``all``."""
        entry = self.labels_entry(labels)
        group_by = "cohort" if kinds.LABELS[entry["method"]].whole_cohort else entry["group_by"]
        groups: dict[str, list[str]] = {}
        for row in self.rows(cohort):
            name = {"patient": row["patient"], "section": row["sample"], "cohort": "all"}[group_by]
            groups.setdefault(name, []).append(row["sample"])
        return groups

    def label_seeds(self, labels: str) -> list[int]:
        """Return the optimiser seeds of a label method."""
        return list(self.labels_entry(labels).get("seeds") or [0])

    def label_jobs(self, labels: str, cohort: str) -> dict[str, list[tuple[str, int, list[str]]]]:
        """Return the fits of each label job by the job's name: group, seed, and the group's sections."""
        entry = self.labels_entry(labels)
        fits = [
            (group, seed, members)
            for group, members in self.label_groups(labels, cohort).items()
            for seed in self.label_seeds(labels)
        ]
        size = entry.get("fits_per_job")
        if size is None:
            size = len(fits) if entry.get("max_epochs", 1) < entry.get("demo_below_epochs", 0) else 1
        if size == 1:
            return {f"{group}.{seed}": [(group, seed, members)] for group, seed, members in fits}
        return {f"part{start // size}": fits[start : start + size] for start in range(0, len(fits), size)}

    def label_fits(self, labels: str, cohort: str, part: str) -> list[tuple[str, int, list[str]]]:
        """Return the fits of one label job."""
        return self.label_jobs(labels, cohort)[part]

    def label_files(self, labels: str, cohort: str) -> list[str]:
        """Return the folders of all label jobs."""
        return [f"results/labels/{labels}/{cohort}/{part}" for part in self.label_jobs(labels, cohort)]

    def label_tables(self, labels: str, cohort: str, group: str) -> list[str]:
        """Return the published tables or ground truth that a label job reads."""
        entry = self.labels_entry(labels)
        cohort_entry, reader, root = (
            self.config.get("cohorts", cohort),
            self.reader(cohort),
            self.root(cohort),
        )
        if kinds.LABELS[entry["method"]].reads == "table":
            tables = reader.tables(cohort_entry, root)
            if entry["table"] not in tables:
                raise InputError(
                    f"{self.config.origin}: labels.{labels}.table",
                    f"source '{cohort_entry['source']}' of cohort '{cohort}' publishes no table '{entry['table']}'.",
                    f"tables: {', '.join(tables) or 'none'}.",
                )
            return [tables[entry["table"]]]
        if kinds.LABELS[entry["method"]].reads != "truth":
            return []
        found = []
        for sample in self.label_groups(labels, cohort)[group]:
            files = reader.files(self.row(cohort, sample), cohort_entry, root)
            if "truth" not in files:
                raise InputError(
                    f"{self.config.origin}: labels.{labels}",
                    f"source '{cohort_entry['source']}' of cohort '{cohort}' has no ground truth.",
                    "use `truth` labels with simulated cohorts only.",
                )
            found.append(files["truth"])
        return found

    def reference_files(self, reference: str) -> dict[str, list[str]]:
        """Return a reference's raw files by role."""
        entry = self.config.get("references", reference)
        if kinds.REFERENCES[entry["source"]].simulated:
            return {"h5ad": [f"{self.config.raw_dir}/simulated/{entry['cohort']}/reference.h5ad"]}
        if entry["source"] == "h5ad":
            return {"h5ad": [self._place(entry["path"])]}
        return {
            "folders": [self._place(part["folder"]) for part in entry["samples"]],
            "annotations": [self._place(part["annotation"]) for part in entry["samples"]],
        }

    def _place(self, path: str) -> str:
        """Put the folders of raw files and of local copies into a path."""
        return path.replace("{mirror_dir}", self.config.mirror_dir or ".").replace("{raw_dir}", self.config.raw_dir)

    def cohort_source(self, cohort: str) -> str:
        """Return the source of a cohort, for what its jobs ask of a machine."""
        return str(self.config.get("cohorts", cohort)["source"])

    def label_method(self, labels: str) -> str:
        """Return the method of labels, for what their jobs ask of a machine."""
        return str(self.labels_entry(labels)["method"])

    def label_gpu(self, labels: str) -> int:
        """Return how many GPUs a label job can use."""
        return kinds.LABELS[self.label_method(labels)].gpu

    def fit_threads(self, labels: str) -> int:
        """Return the threads of a label job: they change floats, so the config decides, not the machine."""
        return int(self.labels_entry(labels).get("fit_threads", 1))

    def label_spec(self, labels: str) -> dict[str, Any]:
        """Return what of a label method's entry decides the labels of one seed: one more must not refit the others."""
        entry = self.labels_entry(labels)
        return {key: value for key, value in entry.items() if key not in {"seeds", "fits_per_job"}}

    def label_inputs(self, labels: str, cohort: str, group: str) -> dict[str, list[str]]:
        """Return what a label job reads, by role."""
        reference = self.labels_entry(labels).get("reference")
        return {
            "samples": [f"{_sections_of(labels)}/{cohort}/{s}.h5ad" for s in self.label_groups(labels, cohort)[group]],
            "reference": [f"results/references/{reference}.h5ad"] if reference else [],
            "tables": self.label_tables(labels, cohort, group),
            "nuclei": self.label_nuclei(labels, cohort, group),
            "genes": self.label_genes(reference, cohort) if reference else [],
        }

    def label_job_inputs(self, labels: str, cohort: str, part: str) -> dict[str, list[str]]:
        """Return what the fits of a label job read, by role."""
        files: dict[str, list[str]] = {}
        for group in dict.fromkeys(group for group, _, _ in self.label_fits(labels, cohort, part)):
            for role, paths in self.label_inputs(labels, cohort, group).items():
                files[role] = list(dict.fromkeys([*files.get(role, []), *paths]))
        return files

    def label_nuclei(self, labels: str, cohort: str, group: str) -> list[str]:
        """Return the counted nuclei that a label job expects cells by; none where its cohort is read without slides.

        Halves of the counts have the nuclei of the whole: their cells did not change.
        """
        if self.labels_entry(labels).get("n_cells_per_location") != "nuclei":
            return []
        members = self.label_groups(labels, cohort)[group]
        pictured = [s for s in members if "image" in self.sample_files(cohort, s)]
        return [f"results/nuclei/{cohort}/{s}.parquet" for s in pictured]

    def reference_spec(self, reference: str) -> dict[str, Any]:
        """Return a reference's entry without the paths of its files; a simulated one is read as any h5ad."""
        entry = dict(self.config.get("references", reference))
        if kinds.REFERENCES[entry["source"]].simulated:
            fill_defaults(entry, load_schema("reference.h5ad"))
        if "samples" in entry:
            entry["samples"] = [{k: v for k, v in s.items() if k not in _PATHS} for s in entry["samples"]]
        return {key: value for key, value in entry.items() if key not in _PATHS}
