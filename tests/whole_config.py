"""All experiments of a config in one process, by the plan that Snakemake follows: hundreds of small jobs in minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from histoloom import paths as patterns
from histoloom.config import RESOURCES
from histoloom.efficiency import gather
from histoloom.folds import make_folds
from histoloom.folds.panel import select_panel
from histoloom.inputs.pixels import pack_tiles
from histoloom.metrics import score_predictions
from histoloom.models import fit_models, predict_models
from histoloom.report.expression import report_expression
from histoloom.report.paper_tables import write_paper_table
from histoloom.samples import read_section
from histoloom.targets import make_target
from histoloom.tiles import cut_tiles
from simulated_world import SimulatedWorld, paths, ready

ENDINGS = ("csv", "md", "html")
FIGURES = {
    "pcc": "gene_pcc.png",
    "profiles": "gene_profiles.png",
    "gene_gene": "gene_gene.png",
    "maps": "gene_maps.jpg",
}


class WholeConfig(SimulatedWorld):
    """Runs every stage in the working directory, each file once."""

    def read(self, cohort: str) -> None:
        """Read the sections of a cohort."""
        plan = self.plan
        for sample in plan.sections.samples(cohort):
            out = ready(patterns.SAMPLE.format(cohort=cohort, sample=sample))
            if not out.exists():
                files = {role: Path(path) for role, path in plan.sections.files(cohort, sample).items()}
                read_section(
                    source=plan.sections.entry(cohort)["source"], cohort=cohort, row=plan.sections.row(cohort, sample),
                    spec=plan.sections.spec(cohort), files=files, out=out, picture=out.with_suffix(".png"),
                )  # fmt: skip

    def sections(self, cohort: str) -> None:
        """Read the sections of a cohort, cut and pack their tiles."""
        plan = self.plan
        self.read(cohort)
        for sample in plan.sections.samples(cohort):
            out = Path(patterns.SAMPLE.format(cohort=cohort, sample=sample))
            for tiles in plan.config.entries["tiles"]:
                names = {"tiles": tiles, "cohort": cohort, "sample": sample}
                table, packed = (ready(p.format(**names)) for p in (patterns.TILES, patterns.PIXELS))
                given: dict[str, Any] = {
                    "sample": out, "slide": Path(plan.sections.slide(cohort, sample)), "spec": plan.sections.tiles_spec(tiles),
                }  # fmt: skip
                if not table.exists():
                    cut_tiles(**given, out=table, picture=table.with_suffix(".png"))
                if not packed.exists():
                    pack_tiles(**given, tiles=table, out=packed, index=Path(f"{packed}.json"))

    def evaluate(self, experiment: str) -> None:
        """Train, predict and score all models of an experiment, and draw what it shows."""
        plan, entry = self.plan, self.plan.config.get("experiments", experiment)
        for cohort in plan.experiments.cohorts(experiment):
            self.sections(cohort)
            for encoder in dict.fromkeys(e for m in entry["models"] for e in plan.embeddings.of_model(m)):
                self.embeddings(encoder, cohort)
            if entry["labels"]:
                self.labels(entry["labels"], cohort)
        target, folds, panel = (
            ready(p.format(experiment=experiment)) for p in (patterns.TARGET, patterns.FOLDS, patterns.PANEL)
        )
        files = {role: paths(names) for role, names in plan.models.target_files(experiment).items()}
        spec = plan.experiments.spec(experiment, "target")
        make_target(spec=spec, files=files, out=target)
        make_folds(spec=plan.experiments.spec(experiment, "folds"), target=target, seed=entry["seed"], out=folds)
        if plan.models.panel_files(experiment):
            select_panel(spec=spec, target=target, folds=folds, out=panel)
        for model in entry["models"]:
            self.model(experiment, model, target, folds)
        for check in plan.checks.ceilings(experiment):
            self.check_rows(check)
        self.report(experiment, target, folds)

    def report(self, experiment: str, target: Path, folds: Path) -> None:
        """Write what an expression experiment shows of its genes."""
        plan = self.plan
        given = plan.report.expression_files(experiment)
        out = {e: ready(patterns.TABLE.format(experiment=experiment, table="protocols", ending=e)) for e in ENDINGS}
        out |= {role: ready(f"results/figures/{experiment}/{name}") for role, name in FIGURES.items()}
        report_expression(
            spec=plan.report.expression_spec(experiment), **{role: paths(names) for role, names in given.items()},
            target=target, folds=folds, out=out,
        )  # fmt: skip

    def model(self, experiment: str, model: str, target: Path, folds: Path) -> None:
        """Train a model's folds, predict its variants, score them."""
        plan = self.plan
        metrics = ready(patterns.METRICS.format(experiment=experiment, model=model))
        if metrics.exists():
            return
        reads = {role: paths(names) for role, names in plan.models.inputs(experiment, model).items()}
        given: dict[str, Any] = {
            "spec": plan.models.spec(model), "experiment": plan.experiments.spec(experiment, "training"),
            "files": {**reads, "target": [target], "folds": [folds]}, "device": "cpu",
        }  # fmt: skip
        files = paths(plan.models.files(experiment, model))
        efficiency = ready(patterns.MODEL_EFFICIENCY.format(experiment=experiment, model=model))
        if plan.models.kind(model).job == "experiment":
            fit_models(**given, out=ready(files[0]), efficiency=efficiency)
        else:
            records = [ready(path) for path in plan.models.fold_efficiencies(experiment, model)]
            for path, record in zip(files, records, strict=True):
                fold, _, seed = path.stem.rpartition(".")
                fit_models(**given, fold=fold, seed=int(seed), out=ready(path), efficiency=record)
            gather(records, efficiency)
        predictions = paths(plan.models.predictions(experiment, model))
        for path in predictions:
            predict_models(**given, models=files, variant=path.stem, out=ready(path))
        scored: dict[str, Any] = {
            "spec": plan.experiments.spec(experiment, "scoring"), "experiment": experiment, "model": model,
            "target": target, "folds": folds,
        }  # fmt: skip
        if experiment in plan.experiments.leakage_tests():
            names = {"experiment": experiment, "model": model}
            leaks, out = (ready(p.format(**names)) for p in (patterns.LEAKAGE_PREDICTIONS, patterns.LEAKAGE_METRICS))
            predict_models(**given, models=files, variant="leaks", out=leaks)
            score_predictions(**scored, predictions=[leaks], out=out, leakage=True)
        score_predictions(**scored, predictions=predictions, out=metrics)

    def paper(self, paper: str) -> list[Path]:
        """Write all tables of a paper; return the markdown files."""
        written = []
        for table in sorted((RESOURCES / "published").glob(f"{paper}_table*.yaml")):
            number = table.stem.rpartition("_table")[2]
            out = {e: ready(patterns.PAPER_TABLE.format(paper=paper, number=number, ending=e)) for e in ENDINGS}
            write_paper_table(
                spec=json.loads(json.dumps(self.plan.report.paper_spec(paper))), number_of_table=int(number),
                **{role: paths(names) for role, names in self.plan.report.paper_results(paper).items()},
                published_dir=table.parent, out=out,
            )  # fmt: skip
            written.append(out["md"])
        return written
