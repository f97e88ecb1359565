"""The whole way from a simulated cohort to metrics in one process, driven by the plan that Snakemake drives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from histoloom.checks.base import run_check
from histoloom.embeddings import EncoderSpec, embed_batch
from histoloom.folds import make_folds
from histoloom.labels import LabelTask, gather_labels, label_groups
from histoloom.metrics import score_predictions
from histoloom.models import fit_models, predict_models
from histoloom.plan import Plan
from histoloom.references import build_reference
from histoloom.samples import read_section
from histoloom.targets import make_target
from histoloom.tiles import cut_tiles
from histoloom_simulation import write_reference, write_section

Roles = dict[str, list[str]]


def paths(files: list[str]) -> list[Path]:
    return [Path(f) for f in files]


def ready(path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class SimulatedWorld:
    """Runs stages in the working directory, each file once."""

    def __init__(self, config: dict[str, Any], origin: Path) -> None:
        self.plan = Plan.from_raw(config, [origin])

    def sections(self, cohort: str) -> None:
        """Simulate a cohort's raw files and read its sections."""
        plan = self.plan
        for sample in plan.sections.samples(cohort):
            out = ready(f"results/samples/{cohort}/{sample}.h5ad")
            if out.exists():
                continue
            row, entry = plan.sections.row(cohort, sample), plan.config.get("cohorts", cohort)
            raw = plan.sections.reader(cohort).files(row, entry, plan.sections.root(cohort))
            write_section(
                spec=plan.sections.simulation_spec(cohort),
                row=row,
                out={role: ready(path) for role, path in raw.items()},
            )
            files = {role: Path(path) for role, path in plan.sections.files(cohort, sample).items()}
            read_section(
                source="simulated", cohort=cohort, row=row, spec=plan.sections.spec(cohort), files=files, out=out,
                picture=out.with_suffix(".png"),
            )  # fmt: skip

    def embeddings(self, encoder: str, cohort: str) -> None:
        """Cut and embed a cohort's tiles."""
        plan, tiles = self.plan, self.plan.config.get("encoders", encoder)["tiles"]
        for sample in plan.sections.samples(cohort):
            out = ready(f"results/tiles/{tiles}/{cohort}/{sample}.parquet")
            if not out.exists():
                cut_tiles(
                    sample=Path(f"results/samples/{cohort}/{sample}.h5ad"), slide=Path(plan.sections.slide(cohort, sample)),
                    spec=plan.sections.tiles_spec(tiles), out=out, picture=out.with_suffix(".png"),
                )  # fmt: skip
        for batch in plan.embeddings.batches(encoder, cohort):
            out = ready(f"results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5")
            if not out.exists():
                files = plan.embeddings.batch_files(encoder, cohort, batch)
                embed_batch(
                    cohort=cohort, batch=batch, samples=paths(files["samples"]), slides=paths(files["slides"]),
                    tiles=paths(files["tiles"]), specs=[EncoderSpec.from_json(plan.embeddings.spec(encoder))], out=[out],
                    efficiency=[out.with_suffix(".json")], scratch=[ready(f"scratch/{batch}/x").parent], threads=1,
                )  # fmt: skip

    def reference(self, reference: str) -> None:
        """Simulate and build a reference."""
        out, plan = ready(f"results/references/{reference}.h5ad"), self.plan
        if out.exists():
            return
        raw = ready(plan.labels.reference_files(reference)["h5ad"][0])
        if cohort := plan.config.get("references", reference).get("cohort"):
            write_reference(spec=plan.sections.simulation_spec(cohort), out=raw)
        build_reference(
            spec=plan.labels.reference_spec(reference),
            files={"h5ad": [raw]},
            out=out,
            seed=0,
            threads=1,
            scratch=Path("scratch"),
        )

    def labels(self, labels: str, cohort: str) -> Path:
        """Label a cohort."""
        plan, final = self.plan, ready(f"results/labels/{labels}/{cohort}.h5ad")
        if final.exists():
            return final
        reference = plan.labels.entry(labels).get("reference")
        if reference:
            self.reference(reference)
        made = []
        for part, fits in plan.labels.jobs(labels, cohort).items():
            folder, tasks = ready(f"results/labels/{labels}/{cohort}/{part}"), []
            for group, seed, _ in fits:
                files = {role: paths(names) for role, names in plan.labels.inputs(labels, cohort, group).items()}
                tasks.append(
                    LabelTask(
                        plan.labels.spec(labels), cohort, group, seed, files["samples"], Path("scratch") / labels / cohort,
                        reference=next(iter(files["reference"]), None), tables=files["tables"], nuclei=files["nuclei"],
                        genes=next(iter(files["genes"]), None),
                    )
                )  # fmt: skip
                made.append(folder / f"{group}.{seed}.h5ad")
            label_groups(tasks, folder, folder.with_suffix(".json"))
        gather_labels(spec=plan.labels.entry(labels), cohort=cohort, groups=made, out=final)
        return final

    def check_rows(self, check: str) -> pd.DataFrame:
        """Score labels."""
        files, out = self.plan.checks.files(check), ready(f"results/metrics/checks/{check}.parquet")
        run_check(
            spec=self.plan.checks.spec(check), labels=paths(files["labels"]),
            against=paths(files["against"]), out=out,
        )  # fmt: skip
        return pd.read_parquet(out)

    def score(self, experiment: str, model: str, variant: str = "default") -> pd.DataFrame:
        """Train, predict and score; everything before is made first. Variant ``leaks``: what a leak is worth."""
        plan = self.plan
        for cohort in plan.experiments.cohorts(experiment):
            self.sections(cohort)
            for encoder in plan.embeddings.of_model(model):
                self.embeddings(encoder, cohort)
            entry = plan.config.get("experiments", experiment)
            self.labels(entry["labels"], cohort)
        target, folds = ready(f"results/targets/{experiment}/target.h5ad"), ready(f"results/folds/{experiment}.parquet")
        files = {role: paths(names) for role, names in plan.models.target_files(experiment).items()}
        make_target(spec=plan.experiments.spec(experiment, "target"), files=files, out=target)
        spec = plan.experiments.spec(experiment, "folds")
        make_folds(spec=spec, target=target, seed=spec.get("seed", 0), out=folds)
        fitted, made = ready(f"models/{experiment}.{model}.pt"), ready(f"predictions/{experiment}.{model}.h5ad")
        reads = {role: paths(names) for role, names in plan.models.inputs(experiment, model).items()}
        given: dict[str, Any] = {
            "spec": plan.models.spec(model),
            "experiment": plan.experiments.spec(experiment, "training"),
            "files": {**reads, "target": [target], "folds": [folds]},
        }
        fit_models(**given, out=fitted, efficiency=fitted.with_suffix(".json"))
        predict_models(**given, models=[fitted], variant=variant, out=made)
        leaks = variant == "leaks"
        out = ready(f"results/metrics/{'leaks/' * leaks}{experiment}/{model}.parquet")
        score_predictions(
            spec=plan.experiments.spec(experiment, "scoring"), experiment=experiment, model=model, predictions=made,
            target=target, folds=folds, out=out, leakage=leaks,
        )  # fmt: skip
        return pd.read_parquet(out)
