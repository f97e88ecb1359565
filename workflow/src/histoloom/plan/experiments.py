"""Which files, batches, groups and targets a config asks for: a pure function of config and sheets.

No job is needed to know the whole graph, so a dry run shows everything and touches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from histoloom import kinds
from histoloom.config import RESOURCES, load_config
from histoloom.kinds import LEVELS
from histoloom.plan.baselines import is_baseline, level_of
from histoloom.plan.encoders import EncoderPlan

# Keys of an experiment by what depends on them; None means all.
_EXPERIMENT_PARTS: Mapping[str, tuple[str, ...] | None] = {
    "target": (
        "task",
        "cohorts",
        "train_cohorts",
        "test_cohorts",
        "tiles",
        "labels",
        "truth",
        "target",
        "expression",
        "panel",
    ),
    "folds": (
        "split",
        "cohorts",
        "train_cohorts",
        "test_cohorts",
        "n_folds",
        "block_um",
        "buffer_um",
        "on_overlap",
        "draws",
        "other_sections",
        "selection",
        "seed",
    ),
    "training": (
        "task",
        "tiles",
        "labels",
        "target",
        "split",
        "on_overlap",
        "train_seeds",
        "standardise",
        "selection",
        "shuffle_labels",
        "seed",
    ),
    "panel": ("panel",),
    "probe": ("components", "alphas", "seed"),
    "audit": ("content_guard",),
    "all": None,
}
_PRESENTATION = frozenset({"title", "paper", "models"})


class Plan(EncoderPlan):
    """The plan of a run."""

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any], files: Iterable[str | Path]) -> Plan:
        """Validate a config as Snakemake merged it and plan it."""
        return cls(load_config(raw, list(files)))

    # experiments ---------------------------------------------------------------------------------------------

    def checks(self) -> list[str]:
        """Return the names of the checks that are to run."""
        return [name for name in self.config.entries["checks"] if self._wanted(name)]

    def papers(self) -> dict[str, list[str]]:
        """Return the experiments of each paper."""
        found: dict[str, list[str]] = {}
        for name in [*self.experiments("abundance"), *self.experiments("probe")]:
            paper = self.config.get("experiments", name).get("paper")
            if paper:
                found.setdefault(paper, []).append(name)
        return found

    def target_files(self, experiment: str) -> dict[str, list[str]]:
        """Return what a target is built from, by role; one entry per section or per cohort, in the same order."""
        entry = self.config.get("experiments", experiment)
        sections, cohorts = self.experiment_samples(experiment), self.experiment_cohorts(experiment)
        truth = entry.get("truth")
        found = {
            "samples": [f"results/samples/{c}/{s}.h5ad" for c, s in sections],
            "tiles": [f"results/tiles/{entry['tiles']}/{c}/{s}.parquet" for c, s in sections],
        }
        if entry["task"] == "probe":
            published = entry["panel"]["genes"] == "published"
            return found | {"genes": [self._bench_tables(experiment)["genes"]] if published else []}
        # Other software may have left out tiles that are kept here.
        encoders = dict.fromkeys(e for m in entry["models"] for e in self.model_encoders(m) if e in self.precomputed)
        return found | {
            **{f"embeddings_{e}": self.embeddings(e, cohorts) for e in encoders},
            "labels": [f"results/labels/{entry['labels']}/{c}.h5ad" for c in cohorts],
            "truth": [f"results/labels/{truth}/{c}.h5ad" for c in cohorts] if truth else [],
        }

    def _bench_tables(self, experiment: str) -> dict[str, str]:
        """Return what the task of a probe came with: gene list and splits."""
        (cohort,) = self.experiment_cohorts(experiment)
        tables: dict[str, str] = self.reader(cohort).tables(self.config.get("cohorts", cohort), self.root(cohort))
        return tables

    def published_splits(self, experiment: str) -> list[str]:
        """Return the tables of published folds, train_0, test_0, train_1 and so on; none for other splits."""
        if self.config.get("experiments", experiment).get("split") != "published":
            return []
        return [path for name, path in self._bench_tables(experiment).items() if name != "genes"]

    def probe_embeddings(self, experiment: str, encoder: str) -> dict[str, list[str]]:
        """Return the embedding files of a probe's cohorts."""
        return {f"embeddings_{encoder}": self.embeddings(encoder, self.experiment_cohorts(experiment))}

    def probe_predictions(self, experiment: str, encoder: str) -> list[str]:
        """Return a probe's predictions, one per way to choose alpha."""
        ways = self.config.get("experiments", experiment)["alpha"]
        return [f"results/predictions/{experiment}/{encoder}/{alpha}.h5ad" for alpha in ways]

    def experiment_spec(self, experiment: str, part: str) -> dict[str, Any]:
        """Return the keys of an experiment that a part of the workflow depends on.

        A change of title or of the list of models must not rebuild targets or retrain other models.
        """
        entry = {**self.config.get("experiments", experiment), "name": experiment}
        if part == "scoring":
            return {key: value for key, value in entry.items() if key not in _PRESENTATION}
        if part == "report":
            return {**entry, "baselines": self.baselines(experiment), "ablation": self.ablation(experiment)}
        keys = _EXPERIMENT_PARTS[part]
        return entry if keys is None else {key: entry[key] for key in ("name", *keys) if key in entry}

    def model_embeddings(self, experiment: str, model: str) -> dict[str, list[str]]:
        """Return a model's embedding files, by encoder in the order of its inputs."""
        cohorts = self.experiment_cohorts(experiment)
        return {f"embeddings_{e}": self.embeddings(e, cohorts) for e in self.model_encoders(model)}

    def model_kind(self, model: str) -> str:
        """Return the kind of a model, for what its jobs ask of a machine."""
        return str(self.config.get("models", model)["kind"])

    def model_version(self, model: str) -> int:
        """Return the version of a model's kind."""
        return kinds.MODELS[self.model_kind(model)].version

    def model_gpu(self, model: str) -> int:
        """Return how many GPUs a training job can use."""
        return kinds.MODELS[self.model_kind(model)].gpu

    def apply_files(self, experiment: str, model: str) -> dict[str, list[str]]:
        """Return what applying a trained model to slides reads, by role."""
        entry = self.config.get("experiments", experiment)
        sections = self.experiment_samples(experiment)
        return {
            "model": [f"results/models/{entry['from']}/{model}.pt"],
            "samples": [f"results/samples/{c}/{s}.h5ad" for c, s in sections],
            **self.model_embeddings(experiment, model),
        }

    def check_files(self, check: str) -> dict[str, list[str]]:
        """Return what a check reads, by role: what is checked, and what it is held against."""
        entry = self.config.get("checks", check)
        kind, against = entry["kind"], entry.get("against")
        if kind.startswith("predicted_"):
            return self._predicted_files(entry)
        cohorts = entry["cohorts"]
        sections = [f"{c}/{s}" for c in cohorts for s in self.samples(c)]
        samples = [f"results/samples/{name}.h5ad" for name in sections]
        if kind == "sensitivity":
            return {"labels": [f"results/labels/{n}/{c}.h5ad" for c in cohorts for n in entry["labels"]], "against": []}
        if kind == "ceiling":
            halves = [f"{entry['labels']}-half{half}s{entry['seed']}" for half in (0, 1)]
            first, second = ([f"results/labels/{name}/{c}.h5ad" for c in cohorts] for name in halves)
            return {"labels": first, "against": second}
        if kind == "kept":
            return {"labels": [f"results/tiles/{entry['tiles']}/{n}.parquet" for n in sections], "against": samples}
        if kind == "nuclei":
            samples = [f"results/nuclei/{name}.parquet" for name in sections]
        return {
            "labels": [f"results/labels/{entry['labels']}/{c}.h5ad" for c in cohorts],
            "against": [f"results/labels/{against}/{c}.h5ad" for c in cohorts] if against else samples,
        }

    def check_chapter(self, check: str) -> str:
        """Return the chapter of the report that a check's figure stands in."""
        return kinds.CHECKS[self.config.get("checks", check)["kind"]].chapter

    def check_columns(self, check: str) -> dict[str, str]:
        """Return how the report lists a check: what it looks at (an experiment, labels or tiles), and its name."""
        entry = self.config.get("checks", check)
        subject = entry.get("experiment") or entry.get("labels") or entry.get("tiles")
        return {"experiment": subject if isinstance(subject, str) else "labels", "what": check}

    def _predicted_files(self, entry: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return what a check of held-out predictions reads."""
        experiment = entry["experiment"]
        models = entry["models"] or [
            m for m in self.config.get("experiments", experiment)["models"] if self.model_encoders(m)
        ]
        nuclei = entry["kind"] == "predicted_nuclei"
        form = "results/nuclei/{}/{}.parquet" if nuclei else "results/samples/{}/{}.h5ad"
        return {
            "labels": [f"results/predictions/{experiment}/{m}/default.h5ad" for m in models],
            "against": [form.format(c, s) for c, s in self.experiment_samples(experiment)],
        }

    def audit_samples(self, experiment: str) -> list[str]:
        """Return the sections that the content guard compares."""
        return [f"results/samples/{c}/{s}.h5ad" for c, s in self.experiment_samples(experiment)]

    def audit_genes(self, experiment: str) -> list[str]:
        """Return the table through which genes of the experiment's cohorts meet in the content guard."""
        cohorts = self.experiment_cohorts(experiment)
        return self.gene_table(self.gene_origin(c) for c in cohorts if kinds.SOURCES[self.gene_origin(c)].expression)

    def audit_file(self, experiment: str) -> list[str]:
        """Return the table of the content guard, which training waits for; nothing where it is off."""
        guard = self.config.get("experiments", experiment)["content_guard"]
        return [] if guard == "off" else [f"results/audit/{experiment}.parquet"]

    def ceilings(self, experiment: str) -> list[str]:
        """Return the checks of kind ceiling on an experiment's labels, their transform and its cohorts."""
        entry = self.config.get("experiments", experiment)
        checks = self.config.entries["checks"]
        return [
            name
            for name in self.checks()
            if checks[name]["kind"] == "ceiling"
            and checks[name]["labels"] == entry["labels"]
            and checks[name]["transform"] == entry["target"]["transform"]
            and set(checks[name]["cohorts"]) & set(self.experiment_cohorts(experiment))
        ]

    def attainable_files(self, experiment: str) -> dict[str, list[str]]:
        """Return the metrics of an experiment's models and the ceilings of its labels, by role."""
        return {
            "metrics": self.experiment_results(experiment)["metrics"],
            "ceilings": [f"results/metrics/checks/{name}.parquet" for name in self.ceilings(experiment)],
        }

    def report_files(self, experiment: str) -> dict[str, list[str]]:
        """Return an experiment's sections and slides, in the same order."""
        sections = self.experiment_samples(experiment)
        return {
            "samples": [f"results/samples/{c}/{s}.h5ad" for c, s in sections],
            "slides": [self.slide(c, s) for c, s in sections],
        }

    def experiment_title(self, experiment: str) -> str:
        """Return an experiment's heading."""
        return str(self.config.get("experiments", experiment).get("title") or "")

    def experiment_results(self, experiment: str) -> dict[str, list[str]]:
        """Return the metrics and efficiency records of an experiment's models."""
        entry = self.config.get("experiments", experiment)
        if entry["task"] == "probe":
            return {"metrics": [f"results/metrics/{experiment}/{e}.parquet" for e in entry["encoders"]]}
        models = entry["models"]
        return {
            "metrics": [f"results/metrics/{experiment}/{m}.parquet" for m in models],
            "efficiency": [f"results/efficiency/models/{experiment}/{m}.json" for m in models],
        }

    def paper_results(self, paper: str) -> dict[str, list[str]]:
        """Return the metrics and efficiency records of all experiments of a paper."""
        results = [self.experiment_results(e) for e in self.papers()[paper]]
        return {role: [f for r in results for f in r.get(role, [])] for role in ("metrics", "efficiency")}

    def published_table(self, paper: str, number: str) -> str:
        """Return the file with the values that a paper published in a table."""
        return str(RESOURCES / "published" / f"{paper}_table{number}.yaml")

    def paper_spec(self, paper: str) -> dict[str, Any]:
        """Return the paper's experiments with what decides whether a number may stand next to a published one."""
        return {"paper": paper, "experiments": {name: self._paper_entry(name) for name in self.papers()[paper]}}

    def _paper_entry(self, experiment: str) -> dict[str, Any]:
        entry = self.config.get("experiments", experiment)
        cohorts = {c: self.config.get("cohorts", c) for c in self.experiment_cohorts(experiment)}
        # Tasks of one benchmark are cohorts of their own.
        sources = {name: " ".join(filter(None, (c["source"], c.get("task")))) for name, c in cohorts.items()}
        if entry["task"] == "probe":
            return {**entry, "sources": sources, "models": entry["encoders"]}
        return {**entry, "sources": sources, "label_spec": self.config.get("labels", entry["labels"])}

    def targets(self) -> list[str]:
        """Return every file that `all` asks for."""
        wanted: list[str] = []
        for name in self.leakage_tests():
            wanted += [f"results/tables/{name}/leaks.{e}" for e in ("csv", "md", "html")]
            wanted += [f"results/figures/{name}/leaks.png", *self.audit_file(name)]
        for name in self.evaluations():
            wanted += [f"results/tables/{name}/summary.{e}" for e in ("csv", "md", "html")]
            wanted += [f"results/tables/{name}/baselines.{e}" for e in ("csv", "md", "html")]
            wanted += [f"results/figures/{name}/{f}.png" for f in ("bars", "baselines", "between")]
            if self.ablation(name):
                wanted += [f"results/tables/{name}/ablation.{e}" for e in ("csv", "md", "html")]
                wanted += [f"results/figures/{name}/ablation.png"]
            wanted += self.audit_file(name)
            if self.ceilings(name):
                wanted += [f"results/tables/{name}/attainable.{e}" for e in ("csv", "md", "html")]
            models = [m for m in self.config.get("experiments", name)["models"] if self.draws_maps(m)]
            pictures = ("maps", "colocalization", "ranks", "errors")
            wanted += [f"results/figures/{name}/{m}/{f}.png" for m in models for f in pictures]
            wanted += [f"results/figures/samples/{c}/{s}.png" for c, s in self.experiment_samples(name)]
            tiles = self.config.get("experiments", name)["tiles"]
            outlined = [(c, s) for c, s in self.experiment_samples(name) if self.outlines(c, s)]
            wanted += [f"results/figures/outlines/{tiles}/{c}/{s}.png" for c, s in outlined]
        for name in self.experiments("probe"):
            wanted += [f"results/tables/{name}/probe.{e}" for e in ("csv", "md", "html")]
            wanted += [f"results/figures/{name}/probe.png", *self.audit_file(name)]
        for name in self.experiments("apply"):
            for model in self.config.get("experiments", name)["models"]:
                for cohort, sample in self.experiment_samples(name):
                    stem = f"{name}/{model}/{cohort}/{sample}"
                    wanted += [f"results/slides/{stem}.{e}" for e in ("tsv", "geojson")]
                    wanted += [f"results/figures/{stem}.png"]
        for name in self.checks():
            wanted += [f"results/metrics/checks/{name}.parquet", f"results/figures/checks/{name}.png"]
        for paper in self.papers():
            tables = sorted((RESOURCES / "published").glob(f"{paper}_table*.yaml"))
            numbers = [path.stem.rpartition("_table")[2] for path in tables]
            wanted += [f"results/tables/{paper}/table{n}.{e}" for n in numbers for e in ("csv", "md", "html")]
        wanted += ["results/tables/exclusions.csv"]
        return list(dict.fromkeys(wanted))

    def draws_maps(self, model: str) -> bool:
        """Whether a model predicts from morphology, so that its maps are worth a look."""
        return not is_baseline(self.level(model))

    def level(self, model: str) -> str:
        """Return how much a model is allowed to know, by name of a level."""
        inputs = []
        for name in self.model_encoders(model):
            spec = self.encoder_spec(name)
            # Features of other software come from weights that are not at hand.
            weights = spec.get("weights", "path")
            weights = spec["card"]["default_weights"] if weights == "card" else weights
            inputs.append((str(spec["card"]["kind"]), str(weights)))
        return level_of(self.model_kind(model), inputs)

    def baselines(self, experiment: str) -> list[dict[str, Any]]:
        """Return an experiment's models with their levels, from the ground up; in the config's order on one level."""
        models = self.config.get("experiments", experiment)["models"]
        steps = sorted(((str(m), self.level(m)) for m in models), key=lambda step: LEVELS.index(step[1]))
        return [{"model": model, "level": level, "baseline": is_baseline(level)} for model, level in steps]
