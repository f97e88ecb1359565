"""Every pattern of files under results/, once: rules use the patterns, the plan fills them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SAMPLE = "results/samples/{cohort}/{sample}.h5ad"
OUTLINES = "results/samples/{cohort}/{sample}.{outline}.parquet"
THINNED = "results/thinned/{half}.{seed}/{cohort}/{sample}.h5ad"
TILES = "results/tiles/{tiles}/{cohort}/{sample}.parquet"
PIXELS = "results/pixels/{tiles}/{cohort}/{sample}.npy"
NUCLEI = "results/nuclei/{cohort}/{sample}.parquet"
EMBEDDINGS = "results/embeddings/{tiles}/{encoder}/{cohort}/{batch}.h5"
EMBEDDINGS_EFFICIENCY = "results/efficiency/embeddings/{tiles}/{encoder}/{cohort}/{batch}.json"
REFERENCE = "results/references/{reference}.h5ad"
LABELS = "results/labels/{labels}/{cohort}.h5ad"
LABELS_PART = "results/labels/{labels}/{cohort}/{part}"
LABELS_EFFICIENCY = "results/efficiency/labels/{labels}/{cohort}/{part}.json"
CELL_LABELS = "results/cell_labels/{cell_labels}/{cohort}/{sample}.csv"
CELL_LABELS_STEPS = "results/cell_labels/{cell_labels}/{cohort}/{sample}.steps.csv"
TARGET = "results/targets/{experiment}/target.h5ad"
PANEL = "results/targets/{experiment}/panel.parquet"
FOLDS = "results/folds/{experiment}.parquet"
AUDIT = "results/audit/{experiment}.parquet"
MODEL = "results/models/{experiment}/{model}.pt"
FOLD_MODEL = "results/models/{experiment}/{model}/{fold}.{seed}.pt"
FOLD_EFFICIENCY = "results/efficiency/models/{experiment}/{model}/{fold}.{seed}.json"
REPRESENTATIONS = "results/representations/{experiment}/{model}/{fold}.h5ad"
RETRIEVAL = "results/representations/{experiment}/{model}/{fold}.retrieval.csv"
CLUSTERS = "results/clusters/{clusters}/{cohort}/{sample}.h5ad"
CLUSTERS_PART = "results/clusters/{clusters}/{cohort}/{sample}.{table}.csv"
TRAINING_RANGE = "results/models/{experiment}/{model}.training.npz"
MODEL_EFFICIENCY = "results/efficiency/models/{experiment}/{model}.json"
PREDICTIONS = "results/predictions/{experiment}/{model}/{variant}.h5ad"
LEAKAGE_PREDICTIONS = "results/predictions/{experiment}/{model}/leaks.h5ad"
SLIDE_PREDICTIONS = "results/predictions/{experiment}/{model}/slides.h5ad"
METRICS = "results/metrics/{experiment}/{model}.parquet"
LEAKAGE_METRICS = "results/metrics/leaks/{experiment}/{model}.parquet"
CHECK = "results/metrics/checks/{check}.parquet"

# What people look at; no stage reads it.
SAMPLE_PICTURE = "results/figures/samples/{cohort}/{sample}.jpg"
TILES_PICTURE = "results/figures/tiles/{tiles}/{cohort}/{sample}.png"
OUTLINES_PICTURE = "results/figures/outlines/{tiles}/{cohort}/{sample}.jpg"
CONTENT_FIGURE = "results/figures/{experiment}/content.png"
CHECK_FIGURE = "results/figures/checks/{check}.png"
FIGURE = "results/figures/{experiment}/{figure}.png"
CLUSTERS_FIGURE = "results/figures/clusters/{clusters}/{cohort}/{sample}.jpg"
GENE_MAPS = "results/figures/{experiment}/gene_maps.jpg"
MODELS_FIGURE = "results/figures/{experiment}/models.jpg"
MODEL_FIGURE = "results/figures/{experiment}/{model}/{figure}"
SLIDE_FIGURE = "results/figures/{experiment}/{model}/{cohort}/{sample}.jpg"
SLIDE = "results/slides/{experiment}/{model}/{cohort}/{sample}.{ending}"
SLIDE_ERRORS = "results/slides/{experiment}/{model}/{cohort}/{sample}.errors.geojson"
VIEWER = "results/viewer/{experiment}/{model}/{cohort}/{sample}.html"
VIEWER_THUMBNAIL = "results/viewer/{experiment}/{model}/{cohort}/{sample}.jpg"
VIEWER_LABELS = "results/viewer/labels.{labels}/{cohort}/{sample}.html"
VIEWER_LABELS_THUMBNAIL = "results/viewer/labels.{labels}/{cohort}/{sample}.jpg"
TABLE = "results/tables/{experiment}/{table}.{ending}"
CLUSTERS_TABLES = ("agreement", "enrichment", "composition", "contacts")
CLUSTERS_TABLE = "results/tables/clusters/{clusters}/{table}.{ending}"
TABLE_ENDINGS = ("csv", "md", "html")
CASES = "results/tables/{experiment}/{model}/errors.csv"
PAPER_TABLE = "results/tables/{paper}/table{number}.{ending}"
FRONT_PAGE = "results/tables/front.{config}.html"
EXCLUSIONS = "results/tables/exclusions.{config}.csv"
QUPATH = "results/exports/{cohort}/{sample}.geojson"
BUNDLE = "results/bundles/{experiment}/{model}"
EXPORT = "results/exports/{experiment}/{model}/{cohort}/{sample}.{ending}"
LABELS_EXPORT = "results/exports/labels.{labels}/{cohort}/{sample}.{ending}"
SPATIALDATA = "results/exports/{cohort}/{sample}.zarr"


def fill(pattern: str, **known: object) -> str:
    """Fill some wildcards of a pattern; the others stay."""
    for name, value in known.items():
        pattern = pattern.replace(f"{{{name}}}", str(value))
    return pattern


def each(pattern: str, sections: Iterable[tuple[str, str]], **names: object) -> list[str]:
    """Return the file of each section, (cohort, sample), in their order."""
    return [pattern.format(cohort=cohort, sample=sample, **names) for cohort, sample in sections]


@dataclass(frozen=True)
class HalfLabels:
    """Name of labels that a method makes of one half of the counts, 0 or 1, cut by a seed."""

    labels: str
    half: int
    seed: int

    def __str__(self) -> str:
        return f"{self.labels}-half{self.half}s{self.seed}"

    @classmethod
    def parse(cls, name: str) -> HalfLabels | None:
        """Return the parts of a name; None where it is that of labels of all counts."""
        match = re.fullmatch(r"(.+)-half([01])s(\d+)", name)
        return cls(match[1], int(match[2]), int(match[3])) if match else None


def scratch_of(output: str | Path) -> Path:
    """Return the folder of checkpoints of a job by one of its outputs, next to the stages under the same results/."""
    path = Path(output)
    root = path.parts.index("results") + 1
    return Path(*path.parts[:root], "checkpoints", *path.parts[root:])
