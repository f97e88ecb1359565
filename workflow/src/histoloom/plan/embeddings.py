"""Encoders: their cards, their batches of sections, and which of them read tiles together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from histoloom import kinds, paths
from histoloom.config import RESOURCES, Config
from histoloom.errors import InputError
from histoloom.identity import canonical_json, sha256_text
from histoloom.job_resources import NEEDS
from histoloom.kind_entries import EncoderKind, Memory
from histoloom.plan.experiments import Experiments
from histoloom.plan.sections import Sections
from histoloom.schemas import check, load_schema, read_yaml

_WEIGHTS_WITHOUT_FILE = frozenset({"card", "hub", "random"})


@dataclass(frozen=True)
class EncoderGroup:
    """Encoders that read tiles together, and the cohorts on which a run asks for exactly these."""

    rule: str
    encoders: tuple[str, ...]
    cohorts: tuple[str, ...]


def check_encoder_groups(config: Config) -> None:
    """Check that the encoders of a group can read tiles together, and that none is in two groups."""
    encoders, group_of = config.entries["encoders"], dict[str, str]()
    for name, entry in config.entries["encoder_groups"].items():

        def refuse(problem: str, remedy: str, where: str = f"{config.origin}: encoder_groups.{name}.encoders") -> None:
            raise InputError(where, problem, remedy, code="encoder-group")

        first = entry["encoders"][0]
        for encoder in entry["encoders"]:
            if encoder not in encoders:
                known = ", ".join(encoders) or "none"
                refuse(f"'{encoder}' is not under encoders; there are: {known}.", f"add '{encoder}' under encoders.")
            if encoder in group_of:
                refuse(f"'{encoder}' is in group '{group_of[encoder]}' already.", "leave it in one of them.")
            group_of[encoder] = name
            if encoders[encoder].get("kind") == "precomputed":
                refuse(f"'{encoder}' is read from files of other software.", "leave it out.")
            for key in ("tiles", "sections_per_batch"):
                if encoders[encoder][key] != encoders[first][key]:
                    problem = f"'{first}' has {key} {encoders[first][key]}, '{encoder}' has {encoders[encoder][key]}."
                    refuse(problem, f"give both the same {key}, or leave one out of the group.")
            if (encoders[encoder].get("tokens") or {}).get("mode") == "shared":
                refuse(f"'{encoder}' has windows of its own (tokens.mode shared).", "leave it out.")


class Embeddings:
    """Encoders: their cards, their batches of sections, and groups that read tiles together."""

    def __init__(self, config: Config, sections: Sections, experiments: Experiments) -> None:
        self.config, self.sections, self.experiments = config, sections, experiments
        self._batches: dict[tuple[int, str], dict[str, list[str]]] = {}
        check_encoder_groups(config)

    @cached_property
    def cards(self) -> dict[str, Any]:
        """Encoder cards by name, defaults filled in: those of ``resources/encoders.yaml`` and the config's own."""
        path = RESOURCES / "encoders.yaml"
        cards = read_yaml(path)
        for name, card in cards.items():
            check(card, load_schema("encoder_card"), f"{path}: {name}")
        for name in self.config.entries["cards"]:
            if name in cards:
                problem = "resources/encoders.yaml has a card of that name."
                raise InputError(f"{self.config.origin}: cards.{name}", problem, "rename it.", "card-name")
        return cards | dict(self.config.entries["cards"])

    def spec(self, encoder: str) -> dict[str, Any]:
        """Return an encoder's entry with its card (at the entry's ``revision``) and tile spec resolved."""
        entry = dict(self.config.get("encoders", encoder))
        if entry["card"] not in self.cards:
            where, remedy = f"{self.config.origin}: encoders.{encoder}.card", f"use one of: {', '.join(self.cards)}."
            problem = f"'{entry['card']}' is neither a card of resources/encoders.yaml nor under cards."
            raise InputError(where, problem, remedy, "encoder-card")
        card = {"name": entry["card"], **self.cards[entry["card"]]}
        if (revision := entry.pop("revision", None)) is not None:
            card["revision"] = revision
        if (version := kinds.ENCODERS[card["kind"]].version) > 1:
            card["version"] = version
        return {**entry, "name": encoder, "card": card, "tiles_spec": self.config.get("tiles", entry["tiles"])}

    def batches(self, encoder: str, cohort: str) -> dict[str, list[str]]:
        """Cut a cohort into batches of sections, in the order of its full sheet.

        A name holds a hash of the members: a run over a subset shares every batch whose members all take part.
        """
        size = self.config.get("encoders", encoder)["sections_per_batch"]
        # Every batch's job asks, so that without memory a plan takes the square of the sections.
        if (size, cohort) not in self._batches:
            order = [row["sample"] for row in self.config.sheets[cohort]]
            chosen = set(self.sections.samples(cohort))
            cut = ([s for s in order[i : i + size] if s in chosen] for i in range(0, len(order), size))
            self._batches[size, cohort] = {
                f"b{number}-{sha256_text(canonical_json(members))[:8]}": members
                for number, members in enumerate(cut)
                if members
            }
        return self._batches[size, cohort]

    def files(self, encoder: str, cohorts: Iterable[str]) -> list[str]:
        tiles = self.config.get("encoders", encoder)["tiles"]
        return [
            paths.EMBEDDINGS.format(tiles=tiles, encoder=encoder, cohort=cohort, batch=batch)
            for cohort in cohorts
            for batch in self.batches(encoder, cohort)
        ]

    def of_model(self, model: str) -> list[str]:
        return list(self.config.get("models", model).get("inputs") or [])

    def batch_files(self, encoder: str, cohort: str, batch: str) -> dict[str, list[str]]:
        """Return what an embedding job reads, by role."""
        members = self.batches(encoder, cohort)[batch]
        pairs = [(cohort, sample) for sample in members]
        entry = self.config.get("encoders", encoder)
        common = {
            "samples": paths.each(paths.SAMPLE, pairs),
            "tiles": paths.each(paths.TILES, pairs, tiles=entry["tiles"]),
        }
        if encoder in self.precomputed:
            form = self.config.place(entry["files"], f"encoders.{encoder}.files").replace("{cohort}", cohort)
            return {**common, "features": [form.replace("{sample}", s) for s in members]}
        weights = entry["weights"]
        return {
            **common,
            "slides": [] if self.kind(encoder).reads == "counts" else [self.sections.slide(cohort, s) for s in members],
            "weights": [] if weights in _WEIGHTS_WITHOUT_FILE else [weights],
            "genes": self.genes(encoder, cohort),
        }

    @property
    def precomputed(self) -> list[str]:
        entries = self.config.entries["encoders"]
        return [name for name in entries if entries[name].get("kind") == "precomputed"]

    @property
    def computed(self) -> list[str]:
        return [name for name in self.config.entries["encoders"] if name not in self.precomputed]

    @property
    def alone(self) -> list[str]:
        """Encoders that are run by themselves, in no group."""
        grouped = {encoder for group in self.groups for encoder in group.encoders}
        return [name for name in self.computed if name not in grouped]

    def genes(self, encoder: str, cohort: str) -> list[str]:
        """Return the table of genes for sections and the vocabulary of an encoder of expression."""
        reads_counts = self.kind(encoder).reads == "counts"
        return self.sections.gene_table([self.sections.gene_origin(cohort), "vocabulary"]) if reads_counts else []

    def kind(self, encoder: str) -> EncoderKind:
        return kinds.ENCODERS[self.spec(encoder)["card"]["kind"]]

    # groups of encoders ----------------------------------------------------------------------------------------

    def used_encoders(self, cohort: str) -> list[str]:
        """Return the encoders that the experiments which are to run ask for on a cohort, in the config's order."""
        used: set[str] = set()
        for name, entry in self.config.entries["experiments"].items():
            if self.config.runs(name) and cohort in self.experiments.cohorts(name):
                used.update(entry.get("encoders") or [])
                used.update(e for model in entry.get("models") or [] for e in self.of_model(model))
        return [name for name in self.config.entries["encoders"] if name in used]

    @cached_property
    def groups(self) -> list[EncoderGroup]:
        """Groups of encoders that the run asks for: one per entry, or several where cohorts use other encoders."""
        groups = []
        for name, entry in self.config.entries["encoder_groups"].items():
            cohorts: dict[tuple[str, ...], list[str]] = {}
            for cohort in self.config.entries["cohorts"]:
                if encoders := tuple(e for e in self.used_encoders(cohort) if e in entry["encoders"]):
                    cohorts.setdefault(encoders, []).append(cohort)
            for encoder in dict.fromkeys(e for encoders in cohorts for e in encoders):
                if self.kind(encoder).reads == "counts":
                    where = f"{self.config.origin}: encoder_groups.{name}.encoders"
                    problem = f"'{encoder}' reads counts, not pixels."
                    raise InputError(where, problem, "leave it out of the group.", code="encoder-group")
            for number, encoders in enumerate(cohorts, start=1):
                rule = f"embed_group_{name}".replace("-", "_") + (f"_{number}" if number > 1 else "")
                groups.append(EncoderGroup(rule, encoders, tuple(cohorts[encoders])))
        return groups

    def batch_specs(self, encoder: str) -> list[dict[str, Any]]:
        """Return the specs of a job's encoders: the one of its name."""
        return [self.spec(encoder)]

    def group_files(self, cohort: str, batch: str, group: EncoderGroup) -> dict[str, list[str]]:
        """Return what a group of encoders reads, by role: the sections of a batch, and the weights of all."""
        files = [self.batch_files(encoder, cohort, batch) for encoder in group.encoders]
        weights = dict.fromkeys(path for of_one in files for path in of_one["weights"])
        return {**files[0], "weights": list(weights)}

    def group_memory(self, group: EncoderGroup) -> Memory:
        """Return what a job of a group takes: several networks at once, or the heaviest of simple features."""
        heaviest = max((self.kind(encoder) for encoder in group.encoders), key=lambda kind: kind.memory.base_mb)
        return NEEDS["embed_group"] if heaviest.weights else heaviest.memory
