"""What a run needs from outside: raw files and weights, from the plan alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from histoloom.errors import InputError
from histoloom.plan import Plan
from histoloom.sources import registry_entry

Entry = dict[str, str]


@dataclass
class Needs:
    """Raw files of a run by where they are to come from.

    Attributes
    ----------
    present
        Paths that lie in raw_dir already.
    mirrored
        (entry, path in mirror_dir) of files that the mirror must hold.
    remote
        Entries to download.
    own
        The user's own files, which must exist.
    simulated
        How many files the run makes itself.
    unlisted
        Messages about files that no list knows.
    """

    present: list[str] = field(default_factory=list)
    mirrored: list[tuple[Entry, Path]] = field(default_factory=list)
    remote: list[Entry] = field(default_factory=list)
    own: list[Path] = field(default_factory=list)
    simulated: int = 0
    unlisted: list[str] = field(default_factory=list)


TASKS = ("evaluate", "apply")


def wanted_encoders(plan: Plan) -> list[str]:
    """Return the encoders of all models that are to be trained or applied."""
    models = [m for t in TASKS for e in plan.experiments.named(t) for m in plan.config.get("experiments", e)["models"]]
    return list(dict.fromkeys(e for model in models for e in plan.embeddings.of_model(model)))


def raw_paths(plan: Plan) -> list[str]:
    """Return every raw file that the run reads, once, in order."""
    sections = plan.sections_of_run()
    paths = [path for section in sections for path in plan.sections.files(*section).values()]
    for section in sections:
        for kind in plan.sections.outlines(*section):
            paths += plan.sections.outline_files(*section, kind).values()
    for name in plan.experiments.named("evaluate"):
        target = plan.models.target_files(name)
        paths += [*target["genes"], *target["table"], *plan.experiments.published_splits(name)]
    references = []
    for labels, cohort in plan.labels_of_run():
        for group in plan.labels.groups(labels, cohort):
            paths += plan.labels.tables(labels, cohort, group)
        reference = plan.config.get("labels", labels).get("reference")
        paths += plan.labels.genes(reference, cohort) if reference else []
        references.append(reference)
    for reference in dict.fromkeys(filter(None, references)):
        paths += [path for files in plan.labels.reference_files(reference).values() for path in files]
    for encoder in wanted_encoders(plan):
        for cohort in dict.fromkeys(cohort for cohort, _ in sections):
            paths += plan.embeddings.genes(encoder, cohort)
    for experiment in plan.experiments.named("evaluate"):
        paths += plan.experiments.audit_genes(experiment) if plan.experiments.audit_file(experiment) else []
    paths += precomputed_files(plan)
    return list(dict.fromkeys(paths))


def precomputed_files(plan: Plan) -> list[str]:
    """Return the files of features that other software computed."""
    paths = []
    for experiment in (e for task in TASKS for e in plan.experiments.named(task)):
        entry = plan.config.get("experiments", experiment)
        encoders = entry.get("encoders") or [e for model in entry["models"] for e in plan.embeddings.of_model(model)]
        for encoder in (e for e in dict.fromkeys(encoders) if e in plan.embeddings.precomputed):
            for cohort in plan.experiments.cohorts(experiment):
                for batch in plan.embeddings.batches(encoder, cohort):
                    paths += plan.embeddings.batch_files(encoder, cohort, batch)["features"]
    return paths


def sort_needs(plan: Plan) -> Needs:
    """Sort a run's raw files by where they come from."""
    needs, raw = Needs(), Path(plan.config.raw_dir)
    mirror = plan.config.mirror_dir
    for text in raw_paths(plan):
        path = Path(text)
        parts = path.relative_to(raw).parts if path.is_relative_to(raw) else ()
        if parts and parts[0] == "simulated":
            needs.simulated += 1
        elif parts and parts[0] in plan.sections.downloaded_sources:
            _sort_download(needs, path, parts[0], "/".join(parts[1:]), mirror)
        else:
            needs.own.append(path)
    return needs


def _sort_download(needs: Needs, path: Path, source: str, file: str, mirror: str | None) -> None:
    if path.exists():
        needs.present.append(str(path))
        return
    try:
        entry = registry_entry(source, file)
    except InputError as error:
        needs.unlisted.append(str(error))
        return
    if mirror is None:
        needs.remote.append(entry)
    else:
        needs.mirrored.append((entry, Path(mirror) / source / file))
