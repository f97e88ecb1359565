"""Where genes of different sources meet, and whether that takes a table."""

from __future__ import annotations

from collections.abc import Iterable

from histoloom import kinds
from histoloom.config import RESOURCES, Config
from histoloom.sources.registry import load_registry


class GenePlan:
    """The part of a plan that says how genes meet.

    Attributes
    ----------
    config
        A validated config.
    """

    config: Config

    def gene_table(self, origins: Iterable[str]) -> list[str]:
        """Return the table through which the genes of several origins meet.

        Parameters
        ----------
        origins
            Where names of genes come from; one origin has one vocabulary and needs no table.

        Returns
        -------
        list of str
            One path, or none where genes meet by name.
        """
        genes = self.config.genes
        if len(set(origins)) < 2 or genes["match"] == "name":
            return []
        (pinned,) = load_registry(RESOURCES / "files" / "genes.tsv")
        return [str(genes["table"] or f"{self.config.raw_dir}/genes/{pinned}")]

    def gene_origin(self, cohort: str) -> str:
        """Return where the gene names of a cohort's sections come from."""
        return str(self.config.get("cohorts", cohort)["source"])

    def label_genes(self, reference: str, cohort: str) -> list[str]:
        """Return the table of genes for sections and a reference; the simulation's two have one vocabulary."""
        simulated = kinds.REFERENCES[self.config.get("references", reference)["source"]].simulated
        return self.gene_table([self.gene_origin(cohort), "simulated" if simulated else f"reference {reference}"])
