"""Every kind of source, reference, label method, encoder, model, split, target and check, with its plain facts.

The plan reads this file when the workflow is parsed, so it imports the standard library only; `load` imports a kind's
class when a job needs it. A new kind is one module, one entry here, one schema ``<section>.<name>.schema.yaml`` and
tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from histoloom.errors import InputError
from histoloom.kind_entries import (
    CellLabelsKind,
    CheckKind,
    EncoderKind,
    LabelsKind,
    Memory,
    ModelKind,
    Need,
    ReferenceKind,
    SourceKind,
    SplitKind,
    TargetKind,
)

LEVELS = (
    "training mean",
    "section mean",
    "coordinates only",
    "nuclear density",
    "colour only",
    "random-weight encoder",
    "stain and texture",
    "encoder, linear",
    "model",
)
"""Levels of the baseline comparison, least first: how much a model may know, from a mean to whole morphology."""

SOURCES: dict[str, SourceKind] = {
    "her2st": SourceKind("histoloom.samples.her2st:Her2stReader"),
    "simulated": SourceKind("histoloom.samples.her2st:SimulatedReader", simulated=True),
    "files": SourceKind("histoloom.samples.files:FilesReader"),
    "slides": SourceKind("histoloom.samples.slides:SlidesReader", expression=False),
    "stnet": SourceKind("histoloom.samples.stnet:STNetReader"),
    "hest": SourceKind("histoloom.samples.hest:HestReader"),
    "hest_bench": SourceKind("histoloom.samples.hest_bench:HestBenchReader", splits=True),
    "xenium": SourceKind("histoloom.samples.xenium:XeniumReader"),
    "simulated_xenium": SourceKind("histoloom.samples.xenium:SimulatedXeniumReader", simulated=True),
    "visium": SourceKind("histoloom.samples.visium:VisiumReader"),
    "spatialdata": SourceKind(
        "histoloom.samples.spatialdata:SpatialDataReader",
        # The package alone takes 300 MB, and a folder's size does not count its files: a guess.
        memory=Memory(2000, picture_mb=80, file_mb=20, base_minutes=20, minutes_per_mb=0.5),
    ),
}
REFERENCES: dict[str, ReferenceKind] = {
    "h5ad": ReferenceKind("histoloom.references.readers:read_h5ad_reference"),
    "mtx": ReferenceKind("histoloom.references.readers:read_mtx_reference"),
    "simulated": ReferenceKind("histoloom.references.readers:read_h5ad_reference", simulated=True),
}
# Fits to the cells of the reference; a guess.
_FROM_CELLS: dict[str, Any] = {
    "gpu": 1,
    "threads_matter": True,
    "memory": Memory(1500, file_mb=60, base_minutes=240, minutes_per_mb=10),
}
LABELS: dict[str, LabelsKind] = {
    "cell2location": LabelsKind(
        "histoloom.labels.cell2location:label_cell2location",
        gpu=1,
        threads_matter=True,
        # By file size, since genes are not counted yet; the fit itself looks again before it begins. Real fits take 150
        # times longer than the demo's; they save and resume, so that three attempts have six times this time.
        memory=Memory(900, file_mb=120, base_minutes=240, minutes_per_mb=10),
    ),
    "nnls": LabelsKind(
        "histoloom.labels.nnls:label_nnls", memory=Memory(350, file_mb=8, base_minutes=20, minutes_per_mb=0.2)
    ),
    "stereoscope": LabelsKind("histoloom.labels.scvi_methods:label_stereoscope", **_FROM_CELLS),
    "destvi": LabelsKind("histoloom.labels.scvi_methods:label_destvi", **_FROM_CELLS),
    "tangram": LabelsKind("histoloom.labels.scvi_methods:label_tangram", **_FROM_CELLS),
    "published": LabelsKind("histoloom.labels.tables:label_published", reads="table"),
    "truth": LabelsKind("histoloom.labels.tables:label_truth", reads="truth"),
    "table": LabelsKind("histoloom.labels.tables:label_own_table", reads="file"),
}

CELL_LABELS: dict[str, CellLabelsKind] = {
    "singler": CellLabelsKind(
        "histoloom.cells.singler:label_singler",
        reads="counts",
        threads=4,
        memory=Memory(900, file_mb=25, base_minutes=30, minutes_per_mb=1),  # a guess
    ),
    "nuclei": CellLabelsKind(
        "histoloom.cells.nuclei:label_nuclei",
        reads="morphology",
        memory=Memory(700, file_mb=15, base_minutes=60, minutes_per_mb=1),  # a guess
    ),
}

_FORMULA: dict[str, Any] = {
    "weights": False,
    "gpu": 0,
    "memory": Memory(700, picture_mb=60, file_mb=4, base_minutes=20, minutes_per_mb=1),
}
_NETWORK = Memory(6000, picture_mb=50, file_mb=4, base_minutes=60, minutes_per_mb=3)  # a guess
ENCODERS: dict[str, EncoderKind] = {
    "nuclear_density": EncoderKind(
        "histoloom.embeddings.simple_features:NuclearDensity", version=2, baseline="nuclear density", **_FORMULA
    ),
    "colour_only": EncoderKind("histoloom.embeddings.simple_features:ColourOnly", baseline="colour only", **_FORMULA),
    "stain_texture": EncoderKind(
        "histoloom.embeddings.stain_texture:StainTexture", baseline="stain and texture", **_FORMULA
    ),
    "timm": EncoderKind("histoloom.embeddings.torch_encoder:TimmEncoder", memory=_NETWORK),
    "conch": EncoderKind("histoloom.embeddings.torch_encoder:ConchEncoder", memory=_NETWORK),
    "ctranspath": EncoderKind("histoloom.embeddings.torch_encoder:CTransPathEncoder", memory=_NETWORK),
    "log_counts": EncoderKind("histoloom.embeddings.log_counts:LogCounts", reads="counts", weights=False, gpu=0),
    "scgpt": EncoderKind("histoloom.embeddings.scgpt:ScGPT", reads="counts", memory=_NETWORK),
}

_VALUES = frozenset({"abundance", "expression"})
_CLASSES = frozenset({"cell_class"})
_FIT = Memory(600, file_mb=20, base_minutes=30, minutes_per_mb=1)
_FEATURES = frozenset({Need.FEATURES})
_LINEAR: dict[str, Any] = {"needs": _FEATURES, "baseline": "encoder, linear", "memory": _FIT}
_PIXELS = frozenset({Need.PIXELS})
_PER_FOLD: dict[str, Any] = {"job": "fold", "gpu": 1, "stochastic": True}
_ON_PIXELS = {**_PER_FOLD, "memory": Memory(4000, file_mb=4, base_minutes=240, minutes_per_mb=3)}  # a guess
MODELS: dict[str, ModelKind] = {
    "mlp": ModelKind(
        "histoloom.models.mlp:MLP",
        _VALUES,
        _FEATURES,
        gpu=1,
        stochastic=True,
        version=3,  # normalised hidden layers, warm-up, steps
        memory=Memory(1300, file_mb=20, base_minutes=60, minutes_per_mb=10),
    ),
    "ridge": ModelKind("histoloom.models.linear:Ridge", _VALUES, **_LINEAR),
    "pca_ridge": ModelKind("histoloom.models.pca_ridge:PCARidge", _VALUES, **_LINEAR),
    "logistic_regression": ModelKind("histoloom.models.linear:LogisticRegression", _CLASSES, **_LINEAR),
    "stnet": ModelKind("histoloom.models.stnet:STNet", _VALUES, _PIXELS, **_ON_PIXELS),
    "bleep": ModelKind("histoloom.models.bleep:BLEEP", _VALUES, _PIXELS, version=2, **_ON_PIXELS),
    "bleep_embeddings": ModelKind(
        "histoloom.models.bleep_embeddings:BleepEmbeddings",
        _VALUES,
        _FEATURES,
        **_PER_FOLD,
        memory=Memory(2000, file_mb=20, base_minutes=60, minutes_per_mb=1),  # a guess
    ),
    "fine_tuned": ModelKind("histoloom.models.fine_tuned:FineTuned", _VALUES, _PIXELS, **_ON_PIXELS),
    "cmrcnet": ModelKind("histoloom.models.cmrcnet:CMRCNet", _VALUES, _PIXELS, version=2, **_ON_PIXELS),
    "histogene": ModelKind(
        "histoloom.models.histogene:HisToGeneModel", _VALUES, _PIXELS | {Need.COORDINATES}, version=2, **_ON_PIXELS
    ),
    "hist2cell": ModelKind("histoloom.models.hist2cell:Hist2CellModel", _VALUES, _PIXELS | {Need.GRAPH}, **_ON_PIXELS),
    "cell_transformer": ModelKind(
        "histoloom.models.cell_transformer:CellTransformerModel",
        _CLASSES,
        _FEATURES | {Need.COORDINATES},
        version=3,  # scaled by moments that are taken block by block
        **_PER_FOLD,
        memory=Memory(2000, file_mb=4, base_minutes=120, minutes_per_mb=1),  # a guess
    ),
    "alignment": ModelKind(
        "histoloom.models.alignment:Alignment",
        _CLASSES,
        _FEATURES,
        **_PER_FOLD,
        memory=Memory(2000, file_mb=4, base_minutes=120, minutes_per_mb=1),  # a guess
    ),
    "section_mean": ModelKind("histoloom.models.baselines:SectionMean", _VALUES, baseline="section mean", memory=_FIT),
    "train_mean": ModelKind("histoloom.models.baselines:TrainMean", _VALUES, baseline="training mean", memory=_FIT),
    "majority_class": ModelKind(
        "histoloom.models.baselines:TrainMean", _CLASSES, baseline="training mean", memory=_FIT
    ),
    "spatial_neighbors": ModelKind(
        "histoloom.models.spatial_neighbors:SpatialNeighbors",
        _CLASSES,
        frozenset({Need.COORDINATES}),
        baseline="coordinates only",
        memory=_FIT,
    ),
    "coordinates": ModelKind(
        "histoloom.models.baselines:Coordinates",
        _VALUES | _CLASSES,
        frozenset({Need.COORDINATES}),
        version=2,
        baseline="coordinates only",
        memory=_FIT,
    ),
}
SPLITS: dict[str, SplitKind] = {
    "leave_one_patient_out": SplitKind("histoloom.folds.splits:leave_one_patient_out"),
    "leave_one_sample_out": SplitKind("histoloom.folds.splits:leave_one_sample_out"),
    "transfer": SplitKind("histoloom.folds.splits:transfer"),
    "published": SplitKind("histoloom.folds.published:published"),
    "random": SplitKind("histoloom.folds.splits:random_observations"),
    "random_stratified": SplitKind("histoloom.folds.splits:random_stratified"),
    "spatial_block": SplitKind("histoloom.folds.splits:spatial_block"),
    "paired_leakage": SplitKind("histoloom.folds.comparisons:paired_leakage", paired=True),
}
TARGETS: dict[str, TargetKind] = {
    "abundance": TargetKind("histoloom.targets.abundance:Abundance", "histoloom.metrics.abundance:score"),
    "expression": TargetKind("histoloom.targets.expression:Expression", "histoloom.metrics.expression:score"),
    "cell_class": TargetKind("histoloom.targets.cell_class:CellClass", "histoloom.metrics.cell_class:score"),
}

_MEASURED, _RESULT, _LABELS = "What was measured", "How good is it", "What depends on the labels"
CHECKS: dict[str, CheckKind] = {
    "truth": CheckKind("histoloom.checks.truth", "truth"),
    "labels": CheckKind("histoloom.checks.agreement", "labels"),
    "regions": CheckKind("histoloom.checks.regions", "regions"),
    "ceiling": CheckKind("histoloom.checks.ceiling", "halves"),
    "expression_ceiling": CheckKind("histoloom.checks.ceiling", "halves"),
    "colocalization": CheckKind("histoloom.checks.colocalization", "permutations"),
    "nuclei": CheckKind("histoloom.checks.nuclei", "nuclei"),
    "residual": CheckKind("histoloom.checks.residual", "regions"),
    "kept": CheckKind("histoloom.checks.tissue_filter", "regions", _MEASURED),
    "predicted_regions": CheckKind("histoloom.checks.regions", "regions", _RESULT),
    "predicted_nuclei": CheckKind("histoloom.checks.nuclei", "nuclei", _RESULT),
    "label_methods": CheckKind("histoloom.checks.label_methods", "labels", _LABELS),
    "sensitivity": CheckKind("histoloom.checks.sensitivity", "labels", _LABELS),
    "split_effect": CheckKind("histoloom.checks.split_effect", "labels", _RESULT),
}

SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "sources": SOURCES,
    "references": REFERENCES,
    "labels": LABELS,
    "cell_labels": CELL_LABELS,
    "encoders": ENCODERS,
    "models": MODELS,
    "splits": SPLITS,
    "targets": TARGETS,
    "checks": CHECKS,
}


def find(section: str | Mapping[str, Any], name: str) -> Any:
    kinds = SECTIONS[section] if isinstance(section, str) else section
    if name not in kinds:
        raise InputError(
            name, f"no such kind; known: {', '.join(sorted(kinds))}.", "use one of these.", code="unknown-kind"
        )
    return kinds[name]


def load_attribute(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def load(section: str | Mapping[str, Any], name: str) -> Any:
    """Import and return the class or function of a kind, such as ``load("models", "ridge")``."""
    return load_attribute(find(section, name).cls)
