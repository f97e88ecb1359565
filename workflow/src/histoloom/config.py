"""Read the config and the cohort sheets: closed schemas, defaults filled in, errors that name key and remedy.

Imports nothing heavy: the Snakefile calls it at every start.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from histoloom import kinds
from histoloom.bundles import add_entries
from histoloom.errors import Collected, InputError
from histoloom.limits import PLAUSIBLE_MPP, PLAUSIBLE_UM
from histoloom.patients import warn_of_similar_patients
from histoloom.schemas import SCHEMAS, check, load_schema, nearest, read_yaml
from histoloom.text_tables import read_text_table
from histoloom.user_yaml import refuse_repeated_keys

logger = logging.getLogger(__name__)
RESOURCES = Path(__file__).resolve().parents[3] / "resources"

# Section of the config -> (schema prefix, key that chooses the schema). None: one schema for all entries.
KINDS: Mapping[str, tuple[str, str | None]] = {
    "cohorts": ("cohort", "source"),
    "tiles": ("tiles", None),
    "references": ("reference", "source"),
    "labels": ("labels", "method"),
    "cell_labels": ("cell_labels", "method"),
    "cards": ("encoder_card", None),
    "encoders": ("encoder", "kind"),
    "encoder_groups": ("encoder_group", None),
    "models": ("model", "kind"),
    "experiments": ("experiment", "task"),
    "clusters": ("clusters", None),
    "checks": ("check", "kind"),
}
Entry = dict[str, Any]
# Keys that name other entries: section -> key -> section of the named entry.
NAMES: Mapping[str, Mapping[str, str]] = {
    "references": {"cohort": "cohorts"},
    "labels": {"reference": "references"},
    "cell_labels": {"matched": "cell_labels"},
    "encoders": {"tiles": "tiles"},
    "models": {"inputs": "encoders", "encoder": "encoders"},
    "experiments": {"cohorts": "cohorts", "train_cohorts": "cohorts", "test_cohorts": "cohorts", "models": "models"}
    | {"tiles": "tiles", "labels": "labels", "truth": "labels", "from": "experiments"},
    "clusters": {"experiment": "experiments"},
    "checks": {"labels": "labels", "against": "labels", "cohorts": "cohorts", "models": "models"}
    | {"experiment": "experiments", "other_experiment": "experiments", "tiles": "tiles"},
}

# Keys of earlier versions: section (empty: top level), key, value (None: any), and what to write now.
OLD_KEYS: Sequence[tuple[str, str, str | None, str]] = (
    ("", "judges", None, "`checks`"),
    ("", "passes", None, "`encoder_groups`"),
    ("cohorts", "plants", None, "`effects`"),
    ("experiments", "task", "abundance", "`task: evaluate`"),
    ("experiments", "task", "probe", "`task: evaluate`, `target: {kind: expression}` and models of kind pca_ridge"),
    ("experiments", "split", "leak_price", "`split: paired_leakage`"),
    ("experiments", "sisters", None, "`other_sections`"),
)
_MEASURES = {"mpp": PLAUSIBLE_MPP, "pitch_um": PLAUSIBLE_UM, "spot_diameter_um": PLAUSIBLE_UM}
OLD_COLUMNS: Mapping[str, str] = {"badge": "qc_flag"}
"""Columns of sheets of earlier versions."""


@dataclass(frozen=True)
class Config:
    """A validated config."""

    entries: Mapping[str, Mapping[str, Entry]]  # by section and name, defaults filled in
    sheets: Mapping[str, list[dict[str, str]]]  # all rows of each cohort's sheet, in its order
    mirror_dir: str | None
    raw_dir: str
    only: tuple[str, ...] | None = None  # experiments and checks to run; None: all
    origin: str = "config"  # the config files, for messages
    sheet_paths: Mapping[str, Path] = field(default_factory=dict)
    genes: Mapping[str, Any] = field(default_factory=lambda: {"match": "ensembl", "table": None})
    viewer: Mapping[str, Any] = field(default_factory=dict)
    qupath_crop: bool = True
    verify_content: bool = True

    def get(self, section: str, name: str) -> Entry:
        """Return an entry; a missing name is an `InputError` that lists those that exist."""
        known = self.entries[section]
        if name not in known:
            raise _unknown(f"{self.origin}: {section}.{name}", section, name, known)
        return known[name]

    def runs(self, name: str) -> bool:
        return self.only is None or name in self.only

    def place(self, path: str, where: str) -> str:
        """Put the folders of local copies and of raw files into a path, which the config key `where` gives."""
        if "{mirror_dir}" in path and self.mirror_dir is None:
            problem, remedy = "needs mirror_dir, which is not set.", "add `--config mirror_dir=DIR`."
            raise InputError(f"{self.origin}: {where}", problem, remedy, code="config-mirror")
        return path.replace("{mirror_dir}", self.mirror_dir or "").replace("{raw_dir}", self.raw_dir)


def _unknown(where: str, section: str, name: str, known: Collection[str]) -> InputError:
    problem = f"'{name}' is not under {section}; there are: {', '.join(known) or 'none'}.{nearest(name, list(known))}"
    return InputError(where, problem, f"use one of these or add '{name}' under {section}.", "name-unknown")


def refuse_old_keys(raw: Mapping[str, Any], origin: str) -> None:
    """Answer a key of an earlier version with the one that took its place."""
    faults = Collected()
    for section, key, value, instead in OLD_KEYS:
        entries = (raw.get(section) or {}) if section else {"": raw}
        # What is no mapping at all is the schema's to refuse.
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(entry, Mapping) and key in entry and value in (None, entry[key]):
                where = f"{origin}: " + ".".join(filter(None, (section, str(name), key)))
                problem = f"`{key}{f': {value}' if value else ''}` is of an earlier version."
                faults.add(InputError(where, problem, f"write {instead}.", "config-old-key"))
    faults.stop()


def _check_entry(section: str, name: str, entry: Any, origin: str) -> Entry:
    prefix, chooser = KINDS[section]
    where = f"{origin}: {section}.{name}"
    if not isinstance(entry, dict):
        raise InputError(where, f"expected a mapping, found {entry!r}.", "see config/README.md.", "config-entry")
    schema = prefix
    # Where there is a schema without a kind, an entry that names none is of that kind.
    if chooser is not None and (chooser in entry or not (SCHEMAS / f"{prefix}.schema.yaml").is_file()):
        known = sorted(path.name.split(".")[1] for path in SCHEMAS.glob(f"{prefix}.*.schema.yaml"))
        kind = entry.get(chooser)
        if kind not in known:
            problem = "is missing" if kind is None else f"{kind!r} is unknown"
            problem += f"; known: {', '.join(known)}.{nearest(str(kind), known)}"
            raise InputError(f"{where}.{chooser}", problem, "use one of these.", "kind-unknown")
        schema = f"{prefix}.{kind}"
    entry = copy.deepcopy(entry)
    check(entry, load_schema(schema), where)
    return entry


@cache
def _warn_of_old_column(path: Path, old: str, new: str) -> None:
    logger.warning("%s: column '%s' is of an earlier version and read as '%s'; rename it", path, old, new)


def read_sheet(path: Path, source: str) -> list[dict[str, str]]:
    """Read a cohort sheet: one row per section, every cell as text."""
    if not path.is_file():
        remedy = "fix `sheet:`; it is relative to the config file."
        raise InputError(path, "the cohort sheet does not exist.", remedy, "sheet-missing")
    frame = read_text_table(path)
    for old, new in OLD_COLUMNS.items():
        if old in frame and new not in frame:
            _warn_of_old_column(path, old, new)
            frame = frame.rename(columns={old: new})
    rows: list[dict[str, str]] = frame.to_dict("records")  # type: ignore[assignment]
    if not rows:
        raise InputError(path, "the sheet has no rows.", "add one row per section.", "sheet-empty")
    schema, faults = load_schema(f"sheet.{source}"), Collected()
    _check_columns(path, list(frame.columns), schema)
    seen: dict[str, int] = {}
    for number, row in zip(frame.index, rows, strict=True):
        where = f"{path}: row {number} (sample {row.get('sample', '?')!r})"
        with faults.each():
            if squeezed := [cell for cell in row.values() if re.search(r"\S {2,}\S", cell)]:
                problem = f"the cell '{squeezed[0]}' holds several spaces, where a tab may have been meant."
                raise InputError(where, problem, "separate cells by tabs.", "sheet-spaces")
            if not row["patient"].strip():
                remedy = "give every section its patient's id; folds depend on it."
                raise InputError(where, "the patient is empty.", remedy, "sheet-patient")
            check(row, schema, where)
            _check_measures(row, where)
            if row["sample"] in seen:
                problem = f"the sample is already in row {seen[row['sample']]}."
                raise InputError(where, problem, "give each section one row.", "sheet-twice")
        seen.setdefault(row["sample"], number)
    faults.stop()
    return rows


def _check_measures(row: Mapping[str, str], where: str) -> None:
    """Refuse lengths that no slide or array could have, before anything is read."""
    for column, (low, high) in _MEASURES.items():
        if (cell := row.get(column)) and not low <= float(cell) <= high:
            problem = f"{column} is {cell}; {low:g} to {high:g} um expected."
            remedy = "correct it; an empty cell is allowed where the files state it."
            raise InputError(where, problem, remedy, "sheet-measure")
    pitch, diameter = row.get("pitch_um"), row.get("spot_diameter_um")
    if pitch and diameter and float(diameter) > float(pitch):
        problem = f"spots of {diameter} um are larger than their distance of {pitch} um."
        remedy = "pitch_um is the distance of neighbouring centres, spot_diameter_um the size; were they exchanged?"
        raise InputError(where, problem, remedy, "sheet-measure")


def _check_columns(path: Path, columns: Sequence[str], schema: Mapping[str, Any]) -> None:
    """Refuse a sheet whose header is not that of its source, once and not for every row."""
    names, known = list(columns), schema["properties"]
    if len(names) == 1 and any(mark in names[0] for mark in ",; "):
        mark = next(name for sign, name in ((",", "commas"), (";", "semicolons"), (" ", "spaces")) if sign in names[0])
        problem = f"its cells are separated by {mark}; the sheet is tab-separated."
        raise InputError(path, problem, "save it as tab-separated text (.tsv).", "sheet-separator")
    unknown = [name for name in names if name not in known and not name.startswith("x_")]
    if unknown:
        close = "".join(nearest(name, known) for name in unknown)
        problem = f"unknown column {', '.join(map(repr, unknown))}.{close}"
        remedy = f"allowed columns: {', '.join(known)}; columns of your own start with x_."
        raise InputError(path, problem, remedy, "sheet-column")
    if missing := [name for name in schema["required"] if name not in names]:
        hint = "; ".join(f"{name}: {known[name].get('description', '')}" for name in missing)
        problem = f"column {', '.join(map(repr, missing))} is missing."
        raise InputError(path, problem, f"add it ({hint}).", "sheet-column")


def load_config(raw: Mapping[str, Any], files: Sequence[str | Path]) -> Config:
    """Validate a config as Snakemake merged it, and read its sheets, looked up next to the last config file first.

    All that is wrong is said in one error.
    """
    origin = " + ".join(str(f) for f in files) or "config"
    refuse_repeated_keys(files)
    top = copy.deepcopy(dict(raw))
    refuse_old_keys(top, origin)
    check(top, load_schema("config"), origin)
    faults = Collected()
    entries: dict[str, dict[str, Entry]] = {section: {} for section in KINDS}
    for section in KINDS:
        for name, entry in (top.get(section) or {}).items():
            with faults.each():
                entries[section][name] = _check_entry(section, name, entry, origin)
    mirror = str(top["mirror_dir"]) if top.get("mirror_dir") else None
    folders = [Path(f).resolve().parent for f in reversed(list(files))] or [Path("config").resolve()]
    sheets: dict[str, list[dict[str, str]]] = {}
    paths: dict[str, Path] = {}
    for name, cohort in entries["cohorts"].items():
        # An absolute path stays as it is.
        candidates = [folder / cohort["sheet"] for folder in folders]
        paths[name] = next((path for path in candidates if path.is_file()), candidates[0])
        with faults.each():
            sheets[name] = read_sheet(paths[name], cohort["source"])
            _check_samples(cohort, sheets[name], f"{origin}: cohorts.{name}.samples")
    only, genes = None if top["only"] is None else tuple(top["only"]), top["genes"]
    warn_of_similar_patients(sheets)
    where, crop, verify = (mirror, str(top["raw_dir"])), top["qupath_crop"], top["verify_content"]
    config = Config(entries, sheets, *where, only, origin, paths, genes, top["viewer"], crop, verify)
    for name, cohort in entries["cohorts"].items():
        if cohort.get("root"):
            with faults.each():
                cohort["root"] = config.place(cohort["root"], f"cohorts.{name}.root")
    for name, entry in entries["experiments"].items():
        if entry.get("bundle"):
            with faults.each():
                entry["bundle"] = config.place(entry["bundle"], f"experiments.{name}.bundle")
                add_entries(entries, name, entry["bundle"], origin)
    if genes["table"]:
        with faults.each():
            genes["table"] = config.place(genes["table"], "genes.table")
    with faults.each():
        check_names(config, {section: (top.get(section) or {}) | entries[section] for section in KINDS})
    faults.stop()
    return config


def _check_samples(cohort: Entry, rows: Sequence[Mapping[str, str]], where: str) -> None:
    known = [row["sample"] for row in rows]
    for sample in cohort.get("samples") or []:
        if sample not in known:
            problem = f"'{sample}' is not in the sheet.{nearest(sample, known)}"
            raise InputError(where, problem, f"use samples of the sheet: {', '.join(known[:40])}.", "cohort-samples")


def _check_evaluates(config: Config, where: str, experiment: str) -> None:
    """Refuse to use the models or predictions of an experiment that leaks on purpose."""
    if config.entries["experiments"][experiment].get("split") == "paired_leakage":
        problem = f"'{experiment}' leaks on purpose (split paired_leakage): its models serve its own comparison only."
        remedy = "name an experiment with another split."
        raise InputError(f"{config.origin}: {where}", problem, remedy, "experiment-leaks-on-purpose")


def check_names(config: Config, named: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Check that every name refers to an entry that exists, and that entries fit together.

    `named`: all entries of each section, also those that are wrong for another reason.
    """
    named, faults = named or config.entries, Collected()
    for section, keys in NAMES.items():
        for name, entry in named[section].items():
            for key, target in keys.items():
                value = entry.get(key) if isinstance(entry, Mapping) else None
                # What is no name is the schema's to refuse.
                for wanted in value if isinstance(value, list) else [value]:
                    if isinstance(wanted, str) and wanted not in named[target]:
                        faults.add(_unknown(f"{config.origin}: {section}.{name}.{key}", target, wanted, named[target]))
    runnable = [*named["experiments"], *named["clusters"], *named["checks"]]
    for name in config.only or ():
        if name not in runnable:
            problem = f"'{name}' is no experiment, clusters or check.{nearest(name, runnable)}"
            remedy = f"use some of: {', '.join(runnable)}."
            faults.add(InputError(f"{config.origin}: only", problem, remedy, "only-unknown"))
    for name, entry in config.entries["experiments"].items():
        if _is_complete(config, "experiments", entry):
            with faults.each():
                _check_experiment(config, name, entry)
    for name, entry in config.entries["checks"].items():
        if entry.get("experiment") in config.entries["experiments"]:
            with faults.each():
                _check_evaluates(config, f"checks.{name}.experiment", entry["experiment"])
    faults.stop()


def _is_complete(config: Config, section: str, entry: Entry) -> bool:
    """Whether all that an entry names, and what that names in turn, is there and right in itself."""
    for key, target in NAMES.get(section, {}).items():
        value, known = entry.get(key) or [], config.entries[target]
        for name in [value] if isinstance(value, str) else value:
            if name not in known or not _is_complete(config, target, known[name]):
                return False
    return True


def _check_experiment(config: Config, name: str, entry: Entry) -> None:
    """Check that an experiment's target, models, encoders and tiles fit together."""
    faults = Collected()
    if "target" in entry:
        with faults.each():
            _check_target(config, name, entry)
    for model in entry.get("models") or []:
        named = config.entries["models"][model]
        for encoder in [*(named.get("inputs") or []), *([named["encoder"]] if "encoder" in named else [])]:
            tiles = config.entries["encoders"][encoder]["tiles"]
            if "tiles" in entry and tiles != entry["tiles"]:
                problem = f"is '{entry['tiles']}', but model '{model}' takes '{encoder}' on tiles '{tiles}'."
                where = f"{config.origin}: experiments.{name}.tiles"
                faults.add(InputError(where, problem, "give both the same tiles.", code="experiment-tiles"))
    if entry["task"] == "apply" and bool(entry["from"]) == bool(entry["bundle"]):
        problem = "has both `from` and `bundle`." if entry["from"] else "has neither `from` nor `bundle`."
        remedy = "name an experiment of this config, or the folder of a bundle."
        faults.add(InputError(f"{config.origin}: experiments.{name}", problem, remedy, code="apply-source"))
    elif entry.get("from"):
        if not entry["models"]:
            entry["models"] = list(config.entries["experiments"][entry["from"]]["models"])
        with faults.each():
            _check_evaluates(config, f"experiments.{name}.from", entry["from"])
        missing = set(entry["models"]) - set(config.entries["experiments"][entry["from"]]["models"])
        if missing:
            problem = f"{', '.join(sorted(missing))} is not trained by experiment '{entry['from']}'."
            remedy = f"use: {', '.join(config.entries['experiments'][entry['from']]['models'])}."
            faults.add(InputError(f"{config.origin}: experiments.{name}.models", problem, remedy, "model-not-trained"))
    faults.stop()


def _check_target(config: Config, name: str, entry: Entry) -> None:
    """Check an experiment's target against its schema, labels and models, and what it takes as published."""
    where, target = f"{config.origin}: experiments.{name}", entry["target"]
    kinds.find("targets", target["kind"])
    check(target, load_schema(f"target.{target['kind']}"), f"{where}.target")
    if (named := target.get("cell_labels")) and named not in config.entries["cell_labels"]:
        raise _unknown(f"{where}.target.cell_labels", "cell_labels", named, config.entries["cell_labels"])
    if named:
        target["labels_from"] = kinds.CELL_LABELS[config.entries["cell_labels"][named]["method"]].reads
    for key, part in (("target.panel", target.get("panel") or {}), ("gene_sets", entry["gene_sets"])):
        if isinstance(part.get("markers"), str):
            part["markers"] = _marker_list(part["markers"], f"{where}.{key}.markers")
    if (target["kind"] == "abundance") != bool(entry["labels"]):
        problem = "is missing." if not entry["labels"] else f"is for target kind abundance, not {target['kind']}."
        remedy = "name a label method for abundance, and no other."
        raise InputError(f"{where}.labels", problem, remedy, code="target-labels")
    if entry["split"] == "random_stratified" and target["kind"] != "cell_class":
        problem = f"random_stratified draws as many of each class, and the target is {target['kind']}."
        raise InputError(f"{where}.split", problem, "use split random.", code="split-stratified-target")
    for model in entry["models"]:
        kind = config.entries["models"][model]["kind"]
        served = kinds.MODELS[kind].targets
        if target["kind"] not in served:
            problem = f"'{model}' of kind {kind} predicts {', '.join(sorted(served))}, not {target['kind']}."
            raise InputError(f"{where}.models", problem, "name another model, or another target.", code="model-target")
    choices = {"split": entry["split"], "target.panel.genes": (target.get("panel") or {}).get("genes")}
    published = [key for key, value in choices.items() if value == "published"]
    sources = [config.entries["cohorts"][cohort]["source"] for cohort in entry["cohorts"]]
    if published and (len(sources) != 1 or not kinds.SOURCES[sources[0]].splits):
        problem = (
            f"is published, which needs one cohort that publishes it (hest_bench), not one of {', '.join(sources)}."
        )
        remedy = "name one task of HEST-bench as the only cohort, or make another choice."
        raise InputError(f"{where}.{published[0]}", problem, remedy, code="published-cohort")


def _marker_list(name: str, where: str) -> list[str]:
    """Return a named list of ``resources/markers.yaml``."""
    lists = read_yaml(RESOURCES / "markers.yaml")
    if name not in lists:
        problem = f"'{name}' is no list of markers.{nearest(name, lists)}"
        remedy = f"use one of: {', '.join(lists)}, or a list of genes."
        raise InputError(where, problem, remedy, code="markers-unknown")
    return list(lists[name]["genes"])
