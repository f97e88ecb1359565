"""What a model sees of observations. Nothing is read before a model asks, and a cohort is never concatenated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.inputs.graph import section_graph
from histoloom.obs_keys import section_keys

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Index = npt.NDArray[np.intp]
SectionKey = tuple[str, str]
Reader = Callable[[Index], Any]
# What a model may know of an observation; a region annotated by a pathologist is not in it.
COLUMNS = ("cohort", "sample", "patient", "obs_id", "array_row", "array_col", "x", "y", "pitch_um", "um_per_px")


@dataclass(frozen=True)
class Inputs:
    """Observations with what can be read of them; `rows` are their (n,) numbers among all of the experiment.

    Rows are counted from 0 within these inputs; a subset from `take` counts anew and shares all files and caches.
    `labels` are there only for a diagnostic that is defined by them.
    """

    _all: pd.DataFrame = field(repr=False)
    _readers: Mapping[str, Reader] = field(repr=False)
    rows: Index = field(repr=False)
    graph_rule: str | float | None = None
    labels: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Return cohort, sample, patient, obs_id, array_row, array_col, x, y, pitch_um, as far as they are known."""
        return self._all.iloc[self.rows]

    def take(self, rows: npt.ArrayLike) -> Inputs:
        """Return a subset of these observations, in the order given."""
        rows = np.asarray(rows, dtype=np.intp)
        labels = None if self.labels is None else self.labels[rows]
        return Inputs(self._all, self._readers, self.rows[rows], self.graph_rule, labels)

    def blocks(self, size: int) -> Iterator[Index]:
        """Yield the rows in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))

    def _read(self, need: str, rows: npt.ArrayLike | None) -> Any:
        if need not in self._readers:
            raise TypeError(f"a model that reads {need} must name it in `needs` of its entry in histoloom.kinds")
        return self._readers[need](self.rows if rows is None else self.rows[np.asarray(rows, dtype=np.intp)])

    def features(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """Return (b, D) embeddings, encoders side by side in the model's order; all rows by default."""
        return self._read("features", rows)

    def with_features(self, features: npt.NDArray[np.float32]) -> Inputs:
        """Return these observations with (n, D) features that were computed from their own."""
        at = np.empty(len(self._all), np.intp)
        at[self.rows] = np.arange(len(self))
        return replace(self, _readers={**self._readers, "features": _Computed(features, at, self.modalities())})

    def feature_widths(self) -> list[int]:
        """Return the dimension of each encoder, in the model's order."""
        widths: list[int] = self._readers["features"].widths  # type: ignore[attr-defined]
        return widths

    def modalities(self) -> list[str]:
        """Return what is read of an observation: counts, morphology, place."""
        encoders: list[str] = getattr(self._readers.get("features"), "modalities", [])
        read = {"pixels": "morphology", "expression": "counts"}
        return sorted({*encoders, *(read[name] for name in self._readers if name in read)})

    def pixels(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[np.uint8]:
        """Return (b, h, w, 3) tiles."""
        return self._read("pixels", rows)

    def expression(self, rows: npt.ArrayLike | None = None) -> csr_array:
        """Return (b, genes) raw counts of the genes that all sections have."""
        return self._read("expression", rows)

    def sections(self) -> Iterator[tuple[SectionKey, Index]]:
        """Yield each section with the numbers of its rows, in order of appearance."""
        groups: Mapping[Any, Any] = self.obs.groupby(["cohort", "sample"], sort=False, observed=True).indices
        for (cohort, sample), rows in groups.items():
            yield (str(cohort), str(sample)), np.asarray(rows, dtype=np.intp)

    def whole_sections(self) -> tuple[pd.DataFrame, Index]:
        """Return `obs` of all observations of these sections, and where these ones are in it.

        A place in a section, from its corner or its border, does not hang on which part is trained on or tested.
        """
        keys = section_keys(self._all)
        numbers = np.flatnonzero(keys.isin(keys[self.rows]))
        return self._all.iloc[numbers], np.searchsorted(numbers, self.rows)

    def graph(self, section: SectionKey) -> csr_array:
        """Return the (m, m) 0/1 neighbours of a section's m rows, in their order in these inputs."""
        if self.graph_rule is None:
            raise TypeError("a model that reads a graph must name it in `needs` and a rule under `graph` of its config")
        own = (self.obs["cohort"] == section[0]) & (self.obs["sample"] == section[1])
        return section_graph(self.obs[own.to_numpy()], self.graph_rule)


class _Computed:
    """Features that are held in memory, of some rows of an experiment."""

    def __init__(self, features: npt.NDArray[np.float32], at: Index, modalities: list[str]) -> None:
        self._features, self._at, self.widths, self.modalities = features, at, [features.shape[1]], modalities

    def __call__(self, rows: Index) -> npt.NDArray[np.float32]:
        return self._features[self._at[rows]]


def union(parts: Sequence[Inputs]) -> tuple[Inputs, list[Index]]:
    """Return the observations of several subsets of the same inputs, each once, and where each subset's rows are."""
    rows, inverse = np.unique(np.concatenate([part.rows for part in parts]), return_inverse=True)
    ends = np.cumsum([len(part) for part in parts])[:-1]
    first = parts[0]
    return Inputs(first._all, first._readers, rows, first.graph_rule), np.split(inverse.reshape(-1), ends)


def locate(obs: pd.DataFrame, keys: Sequence[pd.DataFrame], what: str, remedy: str) -> tuple[Index, Index]:
    """Return file number and row in the file of every observation; `keys` is a table per file, in its order."""
    columns = ["cohort", "sample", "obs_id"]
    index = pd.MultiIndex.from_frame(pd.concat([k[columns] for k in keys], ignore_index=True).astype(object))
    if index.has_duplicates:
        twice = "/".join(map(str, index[index.duplicated()].to_list()[0]))
        raise InputError(what, f"observation {twice} appears twice.", "name each file once.", code=f"{what}-twice")
    at = index.get_indexer(pd.MultiIndex.from_frame(obs[columns].astype(object)))
    if (at < 0).any():
        lost = ["/".join(map(str, key)) for key in obs[columns].to_numpy()[at < 0][:3]]
        problem = f"{int((at < 0).sum())} of {len(obs)} observations are in no file, first {', '.join(lost)}."
        raise InputError(what, problem, remedy, code=f"{what}-missing")
    starts = np.cumsum([0, *(len(k) for k in keys)])
    file = np.searchsorted(starts, at, side="right") - 1
    return file.astype(np.intp), (at - starts[file]).astype(np.intp)
