"""Write the target of an experiment, whatever its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histoloom.samples.hest_bench import published_genes
from histoloom.targets.build import build_target
from histoloom.targets.expression import build_expression_target

_EMBEDDINGS = "embeddings_"


def make_target(*, spec: Mapping[str, Any], files: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Write ``targets/{experiment}/target.h5ad``.

    Parameters
    ----------
    spec
        The experiment's entry.
    files
        By role: samples and tiles; labels and truth of task abundance, and ``embeddings_<encoder>`` of encoders that
        may lack kept tiles; the published gene list of task probe, where its panel is that list.
    out
        File to write.

    Raises
    ------
    InputError
        See `histoloom.targets.build.build_target` and `histoloom.targets.expression.build_expression_target`.
    """
    common: dict[str, Any] = {"spec": spec, "samples": files["samples"], "tiles": files["tiles"], "out": out}
    if spec["task"] == "probe":
        lists = files.get("genes") or []
        build_expression_target(**common, genes=published_genes(lists[0]) if lists else None)
    else:
        build_target(
            **common,
            labels=files["labels"],
            truth=files.get("truth") or [],
            embeddings={role.removeprefix(_EMBEDDINGS): files[role] for role in files if role.startswith(_EMBEDDINGS)},
        )
