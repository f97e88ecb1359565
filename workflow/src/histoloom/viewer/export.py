"""A section's predictions or labels as h5ad with places and a picture, for scanpy, squidpy and SpatialData."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import Table, write_table
from histoloom.errors import InputError
from histoloom.models.outputs import pictures_for_scanpy
from histoloom.samples.section import open_section
from histoloom.viewer.view import FLAGS, View


def write_h5ad(view: View, sample: Path, out: Path) -> None:
    """Write what a view of the section `sample` holds.

    Index as in the section, ``obs_id``; obs is the section's, with the view's columns. X float32 is the prediction,
    the mean where several folds test an observation, or else the labels; the other values are layers. var has
    ``held_out_r``, the mean correlation within held-out sections, and ``held_out_r_here``, of this section, as far as
    they are known. uns has ``spatial``, the facts of the section and what the values are worth.
    """
    section = open_section(sample)
    ids, at = np.unique(np.array(view.ids, dtype=object), return_inverse=True)
    rows = section.obs.index.get_indexer(pd.Index(ids))
    if (rows < 0).any():
        problem = f"has no observation '{ids[rows.argmin()]}', which {view.title} has."
        raise InputError(sample, problem, "make the predictions or labels anew.", code="view-other-section")
    order = np.argsort(rows)

    def by_observation(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        mean = pd.DataFrame(values.astype(np.float32)).groupby(at).mean()
        return np.asarray(mean.to_numpy()[order], np.float32)

    layers = {name: by_observation(values) for name, values in view.layers.items()}
    means = {name: by_observation(values)[:, 0] for name, values in view.columns.items()}
    known = {name: values > 0.5 if name in FLAGS else values for name, values in means.items()}
    obs = section.obs.iloc[rows[order]]
    obs = obs.assign(obs_id=obs.index, library_id=section.sample, **known)
    scores = {
        column: [view.held_out.get(name, {}).get(key, np.nan) for name in view.types]
        for column, key in (("held_out_r", "mean"), ("held_out_r_here", "here"))
        if any(key in score for score in view.held_out.values())
    }
    first = "prediction" if "prediction" in layers else "labels"
    table = Table(
        obs=obs,
        var=pd.DataFrame(scores, index=pd.Index(list(view.types), dtype=object), dtype=float),
        X=layers.pop(first),
        layers=layers,
        obsm={"spatial": section.spatial[rows[order]]},
        metadata={**section.metadata, "values": first, "title": view.title, "note": view.note, "units": view.units},
        uns={"spatial": pictures_for_scanpy([sample])},
    )
    write_table(table, out)
