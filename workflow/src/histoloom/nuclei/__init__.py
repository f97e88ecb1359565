"""Counted nuclei under each spot: a measure of cellularity that no label method and no model has seen."""

from histoloom.nuclei.count import count_nuclei

__all__ = ["count_nuclei"]
