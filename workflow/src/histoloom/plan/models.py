"""Models of experiments: what their targets are built from, what they read, and their level among the baselines."""

from __future__ import annotations

from typing import Any

from histoloom import kinds, paths
from histoloom.config import Config
from histoloom.identity import canonical_json
from histoloom.kinds import LEVELS
from histoloom.plan.baselines import is_baseline, level_of
from histoloom.plan.embeddings import Embeddings
from histoloom.plan.experiments import Experiments


class Models:
    """Targets, training and predictions of experiments."""

    def __init__(self, config: Config, experiments: Experiments, embeddings: Embeddings) -> None:
        self.config, self.experiments, self.embeddings = config, experiments, embeddings

    def spec(self, model: str) -> dict[str, Any]:
        """Return a model's entry with its name."""
        return {**self.config.get("models", model), "name": model}

    def kind(self, model: str) -> kinds.ModelKind:
        """Return what is known of a model's kind."""
        return kinds.MODELS[self.config.get("models", model)["kind"]]

    def version(self, model: str) -> int:
        """Return the version of a model's kind."""
        return self.kind(model).version

    def gpu(self, model: str) -> int:
        """Return how many GPUs a training job can use."""
        return self.kind(model).gpu

    def memory(self, model: str) -> kinds.Memory:
        """Return what a training job takes."""
        return self.kind(model).memory

    def target_files(self, experiment: str) -> dict[str, list[str]]:
        """Return what a target is built from, by role; one entry per section or per cohort, in the same order."""
        entry, cohorts = self.experiments.entry(experiment), self.experiments.cohorts(experiment)
        files = {
            "samples": self.experiments.sample_files(experiment),
            "tiles": [
                paths.TILES.format(tiles=entry["tiles"], cohort=c, sample=s)
                for c, s in self.experiments.samples(experiment)
            ],
        }
        if entry["task"] == "probe":
            published = entry["panel"]["genes"] == "published"
            return files | {"genes": [self.experiments.bench_tables(experiment)["genes"]] if published else []}
        # Other software may have left out tiles that are kept here.
        encoders = dict.fromkeys(e for m in entry["models"] for e in self.embeddings.of_model(m))
        precomputed = [e for e in encoders if e in self.embeddings.precomputed]
        truth = [entry["truth"]] if entry.get("truth") else []
        return files | {
            **{f"embeddings_{e}": self.embeddings.files(e, cohorts) for e in precomputed},
            "labels": [paths.LABELS.format(labels=entry["labels"], cohort=c) for c in cohorts],
            "truth": [paths.LABELS.format(labels=labels, cohort=c) for labels in truth for c in cohorts],
        }

    def inputs(self, experiment: str, model: str) -> dict[str, list[str]]:
        """Return a model's embedding files, by encoder in the order of its inputs."""
        cohorts = self.experiments.cohorts(experiment)
        return {f"embeddings_{e}": self.embeddings.files(e, cohorts) for e in self.embeddings.of_model(model)}

    def apply_files(self, experiment: str, model: str) -> dict[str, list[str]]:
        """Return what applying a trained model to slides reads, by role."""
        return {
            "model": [paths.MODEL.format(experiment=self.experiments.entry(experiment)["from"], model=model)],
            "samples": self.experiments.sample_files(experiment),
            **self.inputs(experiment, model),
        }

    # linear probes of encoders: the wildcard {model} is an encoder -------------------------------------------

    def probe_embeddings(self, experiment: str, model: str) -> dict[str, list[str]]:
        """Return the embedding files of a probe's cohorts."""
        return {f"embeddings_{model}": self.embeddings.files(model, self.experiments.cohorts(experiment))}

    def probe_predictions(self, experiment: str, model: str) -> list[str]:
        """Return a probe's predictions, one per way to choose alpha."""
        ways = self.experiments.entry(experiment)["alpha"]
        return [paths.PREDICTIONS.format(experiment=experiment, model=model, variant=alpha) for alpha in ways]

    # comparisons ---------------------------------------------------------------------------------------------

    def level(self, model: str) -> str:
        """Return how much a model is allowed to know, one of `histoloom.kinds.LEVELS`."""
        inputs = []
        for name in self.embeddings.of_model(model):
            spec = self.embeddings.spec(name)
            # Features of other software come from weights that are not at hand.
            weights = spec.get("weights", "path")
            weights = spec["card"]["default_weights"] if weights == "card" else weights
            inputs.append((str(spec["card"]["kind"]), str(weights)))
        return level_of(self.config.get("models", model)["kind"], inputs)

    def draws_maps(self, model: str) -> bool:
        """Whether a model predicts from morphology, so that its maps are worth a look."""
        return not is_baseline(self.level(model))

    def baselines(self, experiment: str) -> list[dict[str, Any]]:
        """Return an experiment's models with their levels, least first; in the config's order on one level."""
        levels = [(str(m), self.level(m)) for m in self.experiments.entry(experiment)["models"]]
        levels.sort(key=lambda item: LEVELS.index(item[1]))
        return [{"model": model, "level": level, "baseline": is_baseline(level)} for model, level in levels]

    def ablation(self, experiment: str) -> list[dict[str, Any]]:
        """Return the models of an experiment that differ in nothing but their encoders, where some share one.

        Returns
        -------
        list
            ``model``, ``kind`` (of the model, numbered where settings differ) and ``encoders``; empty where there is
            no model whose encoders another one of the same settings uses in part.
        """
        groups: dict[str, list[str]] = {}
        for model in self.experiments.entry(experiment)["models"]:
            if self.embeddings.of_model(model):
                settings = canonical_json({k: v for k, v in self.config.get("models", model).items() if k != "inputs"})
                groups.setdefault(settings, []).append(model)
        ablation: list[dict[str, Any]] = []
        for models in groups.values():
            sets = [set(self.embeddings.of_model(m)) for m in models]
            if not any(one < other for one in sets for other in sets):
                continue
            kind = str(self.config.get("models", models[0])["kind"])
            same = len({item["kind"] for item in ablation if item["kind"].partition(" ")[0] == kind})
            name = f"{kind} {same + 1}" if same else kind
            ablation += [{"model": str(m), "kind": name, "encoders": self.embeddings.of_model(m)} for m in models]
        return ablation
