"""Models of experiments: what their targets are built from, what they read, and their level among the baselines."""

from __future__ import annotations

from typing import Any

from histoloom import bundles, kinds, paths
from histoloom.config import Config
from histoloom.folds import ALL, fold_ids
from histoloom.identity import canonical_json
from histoloom.kind_entries import ModelKind, Need
from histoloom.kinds import LEVELS
from histoloom.plan.baselines import is_baseline, level_of
from histoloom.plan.embeddings import Embeddings
from histoloom.plan.experiments import Experiments


class Models:
    """Targets, training and predictions of experiments."""

    def __init__(self, config: Config, experiments: Experiments, embeddings: Embeddings) -> None:
        self.config, self.experiments, self.embeddings = config, experiments, embeddings

    def spec(self, model: str) -> dict[str, Any]:
        """Return a model's entry with its name, and the encoder that it fine-tunes with its card."""
        entry = self.config.get("models", model)
        tuned = {"encoder": self.embeddings.spec(entry["encoder"])} if "encoder" in entry else {}
        return {**entry, **tuned, "name": model}

    def kind(self, model: str) -> ModelKind:
        return kinds.MODELS[self.config.get("models", model)["kind"]]

    def target_files(self, experiment: str) -> dict[str, list[str]]:
        """Return what a target is built from, by role; one entry per section or per cohort, in the same order."""
        entry, cohorts = self.experiments.entry(experiment), self.experiments.cohorts(experiment)
        # Other software may have left out tiles that are kept here.
        encoders = dict.fromkeys(e for m in entry["models"] for e in self.embeddings.of_model(m))
        precomputed = [e for e in encoders if e in self.embeddings.precomputed]
        target = entry["target"]
        published = (target.get("panel") or {}).get("genes") == "published"

        def labels(name: str | None) -> list[str]:
            return [paths.LABELS.format(labels=name, cohort=c) for c in cohorts] if name else []

        return {
            "samples": self.experiments.sample_files(experiment),
            "tiles": paths.each(paths.TILES, self.experiments.samples(experiment), tiles=entry["tiles"]),
            "labels": labels(entry.get("labels")),
            "truth": labels(entry.get("truth")),
            **{f"embeddings_{e}": self.embeddings.files(e, cohorts) for e in precomputed},
            "genes": [self.experiments.bench_tables(experiment)["genes"]] if published else [],
            "table": self._class_tables(experiment),
        }

    def _class_tables(self, experiment: str) -> list[str]:
        """Return the tables of classes: one, or one per section in order (cell labels, or a path with the sample)."""
        target, sections = self.experiments.entry(experiment)["target"], self.experiments.samples(experiment)
        if labels := target.get("cell_labels"):
            return paths.each(paths.CELL_LABELS, sections, cell_labels=labels)
        if not (pattern := target.get("table")):
            return []
        path = self.config.place(pattern, f"experiments.{experiment}.target.table")
        return list(dict.fromkeys(path.replace("{cohort}", c).replace("{sample}", s) for c, s in sections))

    def panel_files(self, experiment: str) -> list[str]:
        """Return the table of the outputs of each fold, where the target has a panel."""
        has_panel = "panel" in self.experiments.entry(experiment)["target"]
        return [paths.PANEL.format(experiment=experiment)] if has_panel else []

    def inputs(self, experiment: str, model: str) -> dict[str, list[str]]:
        """Return what a model reads of an experiment's sections, by role."""
        entry = self.experiments.entry(experiment)
        return self._inputs(experiment, model, entry["tiles"]) | {"panel": self.panel_files(experiment)}

    def _inputs(self, experiment: str, model: str, tiles: str) -> dict[str, list[str]]:
        cohorts, needs = self.experiments.cohorts(experiment), self.kind(model).needs
        packed = paths.each(paths.PIXELS, self.experiments.samples(experiment), tiles=tiles)
        counts = self.experiments.sample_files(experiment)
        return {
            **{f"embeddings_{e}": self.embeddings.files(e, cohorts) for e in self.embeddings.of_model(model)},
            **({"pixels": packed, "pixels_index": [f"{path}.json" for path in packed]} if Need.PIXELS in needs else {}),
            **({"samples": counts} if Need.EXPRESSION in needs else {}),
        }

    # jobs ----------------------------------------------------------------------------------------------------

    def by_job(self, job: str) -> list[str]:
        """Return the models that are trained in one job for all folds (``experiment``), or per fold (``fold``)."""
        return [name for name in self.config.entries["models"] if self.kind(name).job == job]

    def fold_names(self, experiment: str) -> list[str]:
        """Return the folds of an experiment, ``all`` last where it has that one."""
        return fold_ids(self.experiments.fold_spec(experiment), self.experiments.rows(experiment))

    def _fold_files(self, experiment: str, model: str, folds: list[str], pattern: str) -> list[str]:
        seeds = self.experiments.entry(experiment)["train_seeds"] if self.kind(model).stochastic else [0]
        names = {"experiment": experiment, "model": model}
        return [pattern.format(**names, fold=fold, seed=seed) for fold in folds for seed in seeds]

    def files(self, experiment: str, model: str) -> list[str]:
        """Return the files of a trained model that predictions of test observations need."""
        if self.kind(model).job == "experiment":
            return [paths.MODEL.format(experiment=experiment, model=model)]
        folds = [fold for fold in self.fold_names(experiment) if fold != ALL]
        return self._fold_files(experiment, model, folds, paths.FOLD_MODEL)

    def fold_efficiencies(self, experiment: str, model: str) -> list[str]:
        folds = [fold for fold in self.fold_names(experiment) if fold != ALL]
        return self._fold_files(experiment, model, folds, paths.FOLD_EFFICIENCY)

    def fold_model(self, experiment: str, model: str, fold: str) -> str:
        """Return the model of a fold, with the experiment's first training seed."""
        return self._fold_files(experiment, model, [fold], paths.FOLD_MODEL)[0]

    def other_folds(self, experiment: str, model: str, fold: str) -> list[str]:
        """Return the models whose choices the model of everyone takes the median of."""
        chosen = self.experiments.entry(experiment)["selection"] in {"val_patient", "val_spots", "test_as_published"}
        return self.files(experiment, model) if fold == ALL and chosen else []

    def variants(self, model: str) -> list[str]:
        return list(self.config.get("models", model).get("variants") or ["default"])

    def predictions(self, experiment: str, model: str) -> list[str]:
        names = {"experiment": experiment, "model": model}
        return [paths.PREDICTIONS.format(**names, variant=variant) for variant in self.variants(model)]

    def first_predictions(self, experiment: str, model: str) -> str:
        """Return the predictions that maps and checks show: the first variant's."""
        return self.predictions(experiment, model)[0]

    def apply_files(self, experiment: str, model: str) -> dict[str, list[str]]:
        """Return what applying a trained model to slides reads, by role."""
        entry = self.experiments.entry(experiment)
        if bundle := entry["bundle"]:
            models, training = [f"{bundle}/{bundles.WEIGHTS}"], f"{bundle}/{bundles.TRAINING}"
            tiles = bundles.read_facts(bundle)["tiles"]["name"]
        else:
            models = self.all_files(entry["from"], model)
            training = paths.TRAINING_RANGE.format(experiment=entry["from"], model=model)
            tiles = self.experiments.entry(entry["from"])["tiles"]
        sections = self.experiments.samples(experiment)
        return {
            "models": models,
            **self._inputs(experiment, model, tiles),
            "samples": self.experiments.sample_files(experiment),
            "tiles": [paths.TILES.format(tiles=tiles, cohort=c, sample=s) for c, s in sections],
            "training": [training],
        }

    def all_files(self, experiment: str, model: str) -> list[str]:
        """Return the files of a trained model with fold ``all``, which comes last."""
        if self.kind(model).job == "experiment":
            return self.files(experiment, model)
        return self._fold_files(experiment, model, self.fold_names(experiment), paths.FOLD_MODEL)

    def bundle_spec(self, experiment: str, model: str) -> dict[str, Any]:
        """Return the entries that a config needs to use a trained model, and the licences of its encoders."""
        tiles, encoders = self.experiments.entry(experiment)["tiles"], self.embeddings.of_model(model)
        entries = {name: self.config.get("encoders", name) for name in encoders}
        own = {entry["card"] for entry in entries.values() if entry["card"] in self.config.entries["cards"]}
        cards = {
            name: self.embeddings.spec(name)["card"] for name in encoders if name not in self.embeddings.precomputed
        }
        return {
            "experiment": experiment,
            "model": self.spec(model),
            "tiles": {"name": tiles, "entry": self.config.get("tiles", tiles)},
            "encoders": entries,
            "cards": {name: self.config.get("cards", name) for name in sorted(own)},
            "licences": {name: {key: card.get(key) for key in ("licence", "gate")} for name, card in cards.items()},
        }

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

    def mapped(self, experiment: str) -> list[str]:
        """Return the models of an experiment that predict from morphology, so that their maps are worth a look."""
        return [model for model in self.experiments.entry(experiment)["models"] if not is_baseline(self.level(model))]

    def baselines(self, experiment: str) -> list[dict[str, Any]]:
        """Return an experiment's models with their levels, least first; in the config's order on one level."""
        levels = [(str(m), self.level(m)) for m in self.experiments.entry(experiment)["models"]]
        levels.sort(key=lambda item: LEVELS.index(item[1]))
        return [{"model": model, "level": level, "baseline": is_baseline(level)} for model, level in levels]

    def ablation(self, experiment: str) -> list[dict[str, Any]]:
        """Return the models that differ in nothing but their encoders, where one's are part of another's.

        Items are ``model``, ``kind`` (of the model, numbered where settings differ) and ``encoders``.
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
