"""Which class serves which `source`, `method`, `kind` or `split` of the config.

Entries are strings, so that reading a config never imports torch. To add one: write the module, add its line here, add
its schema under ``workflow/schemas/`` and its tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from histoloom.errors import InputError

SOURCES: Mapping[str, str] = {
    "her2st": "histoloom.samples.her2st:Her2stReader",
    "simulated": "histoloom.samples.her2st:SimulatedReader",
    "files": "histoloom.samples.files:FilesReader",
    "slides": "histoloom.samples.slides:SlidesReader",
    "stnet": "histoloom.samples.stnet:STNetReader",
    "hest": "histoloom.samples.hest:HestReader",
    "hest_bench": "histoloom.samples.hest_bench:HestBenchReader",
    "xenium": "histoloom.samples.xenium:XeniumReader",
    "visium": "histoloom.samples.visium:VisiumReader",
    "spatialdata": "histoloom.samples.spatialdata:SpatialDataReader",
}
REFERENCES: Mapping[str, str] = {
    "h5ad": "histoloom.references.readers:read_h5ad_reference",
    "mtx": "histoloom.references.readers:read_mtx_reference",
    "simulated": "histoloom.references.readers:read_h5ad_reference",
}
LABELS: Mapping[str, str] = {
    "cell2location": "histoloom.labels.cell2location:label_cell2location",
    "nnls": "histoloom.labels.nnls:label_nnls",
    "published": "histoloom.labels.published:label_published",
    "truth": "histoloom.labels.published:label_truth",
}
ENCODERS: Mapping[str, str] = {
    "nuclear_density": "histoloom.embeddings.plain:NuclearDensity",
    "colour_only": "histoloom.embeddings.plain:ColourOnly",
    "stain_texture": "histoloom.embeddings.stain_texture:StainTexture",
    "timm": "histoloom.embeddings.timm_encoder:TimmEncoder",
    "conch": "histoloom.embeddings.towers:ConchEncoder",
    "scgpt": "histoloom.embeddings.scgpt:ScGPT",
    "ctranspath": "histoloom.embeddings.towers:CTransPathEncoder",
}
MODELS: Mapping[str, str] = {
    "mlp": "histoloom.models.mlp:MLP",
    "ridge": "histoloom.models.ridge:Ridge",
    "section_mean": "histoloom.models.baselines:SectionMean",
    "train_mean": "histoloom.models.baselines:TrainMean",
    "coordinates": "histoloom.models.baselines:Coordinates",
}
SPLITS: Mapping[str, str] = {
    "leave_one_patient_out": "histoloom.folds.splits:leave_one_patient_out",
    "leave_one_sample_out": "histoloom.folds.splits:leave_one_sample_out",
    "transfer": "histoloom.folds.splits:transfer",
    "published": "histoloom.folds.published:published",
    "random": "histoloom.folds.splits:random_observations",
    "spatial_block": "histoloom.folds.splits:spatial_block",
    "paired_leakage": "histoloom.folds.comparisons:paired_leakage",
}


def load(registry: Mapping[str, str], name: str) -> Any:
    """Import and return what a registry names.

    Raises
    ------
    InputError
        If the registry has no such entry.
    """
    if name not in registry:
        raise InputError(name, f"no such kind; known: {', '.join(sorted(registry))}.", "use one of these.")
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)
