"""Sections of cohorts, their raw files, and where their genes need a table to match."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from histoloom import kinds, paths
from histoloom.config import RESOURCES, Config
from histoloom.errors import Collected, InputError
from histoloom.job_resources import NEEDS
from histoloom.kind_entries import Memory, SourceKind
from histoloom.sources.registry import load_registry

Row = dict[str, str]
# Keys of a cohort that choose sections or find files; they do not change what is read from one.
_NOT_SCIENCE = frozenset({"sheet", "samples", "root", "outlines"})


class Sections:
    """Which sections a cohort has, and the files of each."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def entry(self, cohort: str) -> dict[str, Any]:
        return self.config.get("cohorts", cohort)

    def _where(self, cohort: str) -> str:
        return f"{self.config.origin}: cohorts.{cohort}"

    def spec(self, cohort: str) -> dict[str, Any]:
        """Return what of a cohort's entry decides the content of its sections."""
        return {key: value for key, value in self.entry(cohort).items() if key not in _NOT_SCIENCE}

    def simulation_spec(self, cohort: str) -> dict[str, Any]:
        """Return the generator's whole input: the cohort's entry and all rows of its sheet."""
        return {**self.spec(cohort), "cohort": cohort, "sheet_rows": self.config.sheets[cohort]}

    def tiles_spec(self, tiles: str) -> dict[str, Any]:
        return self.config.get("tiles", tiles)

    def memory(self, cohort: str) -> Memory:
        return self._kind(cohort).memory or NEEDS["read_section"]

    def _kind(self, cohort: str) -> SourceKind:
        return kinds.SOURCES[self.entry(cohort)["source"]]

    # rows ----------------------------------------------------------------------------------------------------

    def row(self, cohort: str, sample: str) -> Row:
        if sample in self._by_sample[cohort]:
            return self._by_sample[cohort][sample]
        where = str(self.config.sheet_paths.get(cohort, cohort))
        raise InputError(where, f"no sample '{sample}'.", "fix the name.", "sheet-sample")

    @cached_property
    def _by_sample(self) -> dict[str, dict[str, Row]]:
        return {cohort: {row["sample"]: row for row in rows} for cohort, rows in self.config.sheets.items()}

    @cached_property
    def _used(self) -> dict[str, list[Row]]:
        used = {}
        for cohort, sheet in self.config.sheets.items():
            subset = self.entry(cohort).get("samples")
            names = {row["sample"] for row in sheet} if subset is None else set(subset)
            used[cohort] = [row for row in sheet if not row.get("exclude") and row["sample"] in names]
        return used

    def rows(self, cohort: str) -> list[Row]:
        """Return the rows that take part: in the subset, if one is named, and not excluded."""
        self.entry(cohort)
        rows = self._used[cohort]
        if not rows:
            problem = "no section takes part: all are excluded in the sheet or left out by `samples`."
            raise InputError(self._where(cohort), problem, "name one that is not excluded.", "cohort-empty")
        return rows

    def samples(self, cohort: str) -> list[str]:
        return [row["sample"] for row in self.rows(cohort)]

    def pairs(self, cohorts: Iterable[str]) -> list[tuple[str, str]]:
        """Return (cohort, sample) of all sections of cohorts."""
        return [(cohort, sample) for cohort in cohorts for sample in self.samples(cohort)]

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
        return kinds.load("sources", self.entry(cohort)["source"])

    def root(self, cohort: str) -> str:
        entry = self.entry(cohort)
        if self._kind(cohort).simulated:
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

    def all_files(self, cohort: str, sample: str) -> dict[str, str]:
        """Return a section's raw files by role, with those that only the simulation knows."""
        row, entry = self.row(cohort, sample), self.entry(cohort)
        files: dict[str, str] = self.reader(cohort).files(row, entry, self.root(cohort))
        return files | self._roi(cohort, row)

    def _roi(self, cohort: str, row: Row) -> dict[str, str]:
        # The user's own, also where the section is a publisher's: it lies with the sheet.
        return {"roi": str(self.config.sheet_paths[cohort].parent / row["roi"])} if row.get("roi") else {}

    def files(self, cohort: str, sample: str) -> dict[str, str]:
        """Return what reading a section takes, by role; ``image`` is the slide."""
        files = {role: path for role, path in self.all_files(cohort, sample).items() if role != "truth"}
        for path in files.values():
            if "{" in path or "}" in path:
                where, remedy = self._sheet_row(cohort, sample, path), "rename the file or folder without { and }."
                problem = f"the path '{path}' has braces, which Snakemake takes for a pattern."
                raise InputError(where, problem, remedy, "path-braces")
        return files

    def raw_files(self, cohort: str, sample: str) -> dict[str, str]:
        """Return `files`; one that no rule simulates or downloads must be there."""
        files, faults = self.files(cohort, sample), Collected()
        for role, path in files.items():
            if not path.startswith(f"{self.config.raw_dir}/") and not Path(path).exists():
                where, problem = self._sheet_row(cohort, sample, path), f"the file {path} ({role}) does not exist."
                remedy = (
                    "correct the path, which is relative to the sheet or to the cohort's `root`; or give the section a "
                    "reason in the sheet's 'exclude' column."
                )
                faults.add(InputError(where, problem, remedy, "user-file-missing"))
        faults.stop()
        return files

    def _sheet_row(self, cohort: str, sample: str, path: str) -> str:
        """Return sheet, row and, where a cell is part of the path, column."""
        cells = self.row(cohort, sample).items()
        parts = {name: cell for name, cell in cells if cell and cell in path}
        column = f", column '{max(parts, key=lambda name: len(parts[name]))}'" if parts else ""
        return f"{self.config.sheet_paths[cohort]}: row of sample '{sample}'{column}"

    def tables(self, cohort: str) -> dict[str, str]:
        """Return the tables that came with a cohort by name: labels, gene lists, splits."""
        tables: dict[str, str] = self.reader(cohort).tables(self.entry(cohort), self.root(cohort))
        return tables

    def slide_files(self, cohort: str, sample: str) -> list[str]:
        """Return the path of a section's slide; nothing where it is read without one."""
        files = self.files(cohort, sample)
        return [files["image"]] if "image" in files else []

    def slide(self, cohort: str, sample: str) -> str:
        if not (slides := self.slide_files(cohort, sample)):
            problem = f"section '{sample}' is read without a slide, but its pixels are asked for."
            remedy = "set `images: true` and name the slide in the sheet, or use models of counts and places only."
            raise InputError(self._where(cohort), problem, remedy, "cohort-without-slides")
        return slides[0]

    def outlines(self, cohort: str, sample: str) -> dict[str, str]:
        """Return the files of a section's outlines by what they outline; none where its source has none."""
        return {
            kind: paths.OUTLINES.format(cohort=cohort, sample=sample, outline=kind)
            for kind in self._published_outlines(cohort, sample)
        }

    def needed_outlines(self, cohort: str, sample: str) -> dict[str, str]:
        """Return the files of a section's outlines; no outlines are an error."""
        if not self._published_outlines(cohort, sample):
            remedy = "only source xenium publishes outlines, and `outlines: false` leaves them out."
            raise InputError(self._where(cohort), "has no outlines of cells.", remedy, "cohort-without-outlines")
        return self.outlines(cohort, sample)

    def outline_files(self, cohort: str, sample: str, outline: str) -> dict[str, str]:
        """Return what a section's outlines are made from, by role."""
        self.needed_outlines(cohort, sample)
        files = self.files(cohort, sample)
        placing: dict[str, str] = {role: files[role] for role in ("experiment", "alignment") if role in files}
        return {"boundaries": self._published_outlines(cohort, sample)[outline], **placing}

    def _published_outlines(self, cohort: str, sample: str) -> dict[str, str]:
        row, entry = self.row(cohort, sample), self.entry(cohort)
        outlines: dict[str, str] = self.reader(cohort).polygons(row, entry, self.root(cohort))
        return outlines

    # genes ---------------------------------------------------------------------------------------------------

    def gene_table(self, origins: Iterable[str]) -> list[str]:
        """Return the table that matches genes of several origins (vocabularies); none where they match by name."""
        genes = self.config.genes
        if len(set(origins)) < 2 or genes["match"] == "name":
            return []
        (pinned,) = load_registry(RESOURCES / "files" / "genes.tsv")
        return [str(genes["table"] or f"{self.config.raw_dir}/genes/{pinned}")]

    def gene_origin(self, cohort: str) -> str:
        """Return where the gene names of a cohort's sections come from."""
        return "simulated" if self._kind(cohort).simulated else str(self.entry(cohort)["source"])

    def has_expression(self, cohort: str) -> bool:
        """Whether a cohort's sections have counts."""
        return self._kind(cohort).expression
