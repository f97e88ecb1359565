"""The stage `embeddings`: tiles of several sections through one frozen encoder, resumable section by section."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.embeddings.artefact import card_content, write_embeddings
from histoloom.embeddings.cards import Encoder, build_encoder, full_spec
from histoloom.embeddings.efficiency import Progress, efficiency_record
from histoloom.embeddings.reader import Batch, TileReader
from histoloom.embeddings.sections import PartWriter, Section, load_part, open_sections
from histoloom.embeddings.tokens import CellWriter, saved, windows_of
from histoloom.errors import InputError
from histoloom.genes import BY_ID, BY_NAME, Meeting, own_names
from histoloom.identity import make_identity, sha256_file
from histoloom.tiles.spec import TileSpec

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
_IN_FLIGHT = 2
"""Batches that a GPU has in hand: one computes while the other's features travel back."""

Features = npt.NDArray[np.float32]


def embed_batch(
    *,
    cohort: str,
    batch: str,
    samples: Sequence[Path],
    slides: Sequence[Path],
    tiles: Sequence[Path],
    spec: Mapping[str, Any],
    out: Path,
    efficiency: Path,
    scratch: Path,
    threads: int,
    device: str = "auto",
    genes: Path | None = None,
) -> None:
    """Embed the kept tiles of several sections.

    Parameters
    ----------
    cohort, batch
        Names.
    samples, slides, tiles
        Sections (h5ad), slide images and tables of tiles (parquet), in the same order.
    spec
        Encoder entry with ``card`` (full), ``tiles_spec`` and ``name``.
    out
        h5 to write: features, coords, sample, obs_id; order of sections, then of tiles.
    efficiency
        JSON to write: seconds, peak memory, tiles/s.
    scratch
        Folder for finished sections; what fits is used again after a kill, all is removed at the end.
    threads
        Threads or worker processes.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda[:n]"``.
    genes
        For encoders of expression: table through which genes meet their vocabulary (`histoloom.genes`); None: by name.

    Raises
    ------
    InputError
        If tiles, weights or pixels cannot be used, or a feature is not finite.
    """
    spec = full_spec(spec)
    sections = open_sections(cohort, samples, slides, tiles, spec["tiles_spec"])
    started = time.perf_counter()
    with closing(build_encoder(spec, threads=threads, device=device)) as encoder:
        if reads_counts(encoder):
            spec = {**spec, "genes": {"matched_by": BY_ID if genes else BY_NAME, "table": genes and sha256_file(genes)}}
            encoder.meeting = Meeting(genes)  # type: ignore[attr-defined]
        metadata = _metadata(cohort, batch, sections, spec, encoder)
        progress = Progress(f"{cohort}/{batch}", sum(map(len, sections)))
        identities = [_part_identity(section, spec, encoder) for section in sections]
        embed_sections(sections, identities, spec, encoder, scratch, progress, threads=threads)
        record = efficiency_record(encoder, progress, time.perf_counter() - started)
        parts = [load_part(scratch, s, i, encoder.dim) for s, i in zip(sections, identities, strict=True)]
    write_embeddings(
        out,
        features=[part for part in parts if part is not None],
        coords=np.concatenate([s.centres for s in sections]),
        sample=[s.sample for s in sections for _ in range(len(s))],
        obs_id=[str(i) for s in sections for i in s.obs_id],
        metadata=metadata,
    )
    Path(efficiency).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(scratch, ignore_errors=True)


def _metadata(
    cohort: str, batch: str, sections: Sequence[Section], spec: Mapping[str, Any], encoder: Encoder
) -> dict[str, Any]:
    tiles_spec = TileSpec.from_dict(spec["tiles_spec"]).as_dict()
    inputs = {f"tiles.{s.sample}": s.identity for s in sections}
    params = {**_content(spec, encoder), "cohort": cohort, "samples": [s.sample for s in sections]}
    return {
        "cohort": cohort,
        "batch": batch,
        "samples": [s.sample for s in sections],
        "n_tiles": [len(s) for s in sections],
        "card": spec["card"],
        "revision": encoder.revision,
        "weights_sha256": encoder.weights_sha256,
        "dim": encoder.dim,
        "feature_names": encoder.feature_names,
        "tiles_spec": tiles_spec,
        "encoder": spec["name"],
        **({"genes_matched_by": spec["genes"]["matched_by"]} if reads_counts(encoder) else {}),
        **({"tokens": {**spec["tokens"], **saved(sections, spec["tokens"])}} if spec["tokens"] else {}),
        "identity": make_identity("embeddings", STAGE_VERSION, params, inputs),
    }


def _content(spec: Mapping[str, Any], encoder: Encoder) -> dict[str, Any]:
    """Return what decides an embedding: not its name, nor where weights lie, batch size, threads or device."""
    return {
        "card": card_content(spec["card"]),
        "weights_sha256": encoder.weights_sha256,
        "upsample": spec["upsample"],
        **({"tokens": spec["tokens"]} if spec["tokens"] else {}),
        **({"genes": spec["genes"]} if reads_counts(encoder) else {}),
        "tiles_spec": TileSpec.from_dict(spec["tiles_spec"]).as_dict(),
    }


def reads_counts(encoder: Encoder) -> bool:
    """Whether an encoder reads expression and not pixels."""
    return getattr(encoder, "reads", "pixels") == "expression"


def _part_identity(section: Section, spec: Mapping[str, Any], encoder: Encoder) -> str:
    params = {**_content(spec, encoder), "precision": encoder.precision}
    return str(make_identity("embeddings.part", STAGE_VERSION, params, {"tiles": section.identity})["sha256"])


def embed_sections(
    sections: Sequence[Section],
    identities: Sequence[str],
    spec: Mapping[str, Any],
    encoder: Encoder,
    scratch: Path,
    progress: Progress,
    *,
    threads: int = 1,
) -> None:
    """Encode the sections that have no part yet; each finished one becomes a part in `scratch`.

    Parameters
    ----------
    sections, identities
        The sections, and what their parts are made from.
    spec
        Full entry of the encoder.
    encoder
        The encoder.
    scratch
        Folder of the parts.
    progress
        Is told of every batch.
    threads
        Threads that read, if the encoder computes on a GPU; beside a CPU's arithmetic half of them.

    Raises
    ------
    InputError
        If pixels cannot be read, or a feature is not finite (names the tile).
    """
    todo = []
    for section, identity in zip(sections, identities, strict=True):
        if load_part(scratch, section, identity, encoder.dim) is None:
            todo.append((section, identity))
        else:
            progress.skip(len(section))
            logger.info("%s: %d tiles taken over from the interrupted run", section.sample, len(section))
    if reads_counts(encoder):
        for section, identity in todo:
            embed_counts(section, identity, encoder, scratch)
            progress.add(len(section))
        return
    readers = threads if encoder.device.startswith("cuda") else max(1, threads // 2)
    parts = _Parts(todo, scratch, encoder, spec["tokens"])
    progress.total = progress.skipped + sum(map(len, parts.sections))
    reader = TileReader(
        parts.sections,
        TileSpec.from_dict(spec["tiles_spec"]),
        encoder.chunk,
        threads=readers,
        allocate=getattr(encoder, "allocate", None),
    )
    in_flight = _IN_FLIGHT if encoder.device.startswith("cuda") else 1
    under_way: deque[tuple[Batch, Callable[[], Features]]] = deque()

    def finish() -> None:
        batch, wait = under_way.popleft()
        features = wait()
        _check_finite(batch, features, reader.sections, spec)
        parts.add(batch, features)
        reader.release(batch)
        progress.add(len(features), waited_s=reader.waited_s)

    with closing(parts), closing(iter(reader)) as batches:
        for batch in batches:
            if batch.runs:
                under_way.append((batch, _submit(encoder, batch)))
            while len(under_way) >= in_flight or (under_way and batch.error is not None):
                finish()
            if batch.error is not None:
                raise batch.error
        while under_way:
            finish()


def embed_counts(section: Section, identity: str, encoder: Any, scratch: Path) -> None:
    """Encode the counts of a section's kept tiles.

    Raises
    ------
    InputError
        If the section lacks genes, or an observation of its tiles.
    """
    import anndata as ad
    import scipy.sparse as sp

    data = ad.read_h5ad(section.path)
    rows = data.obs_names.get_indexer(list(section.obs_id))
    if data.n_vars == 0 or (rows < 0).any():
        what = "has no genes" if data.n_vars == 0 else f"lacks {int((rows < 0).sum())} observations of its tiles"
        raise InputError(section.path, f"{what}.", "use an encoder of expression on sections with counts only.")
    keys = [f"{section.sample}/{obs_id}" for obs_id in section.obs_id]
    genes = own_names(data.var) if encoder.meeting.table else data.var_names
    features = encoder.encode_counts(sp.csr_matrix(data.X)[rows], list(genes), keys)
    PartWriter(scratch, section, identity, encoder.dim).add(features)


def _submit(encoder: Encoder, batch: Batch) -> Callable[[], Features]:
    """Start a batch; an encoder that cannot do so encodes it at once."""
    submit = getattr(encoder, "submit", None)
    if submit is not None:
        wait: Callable[[], Features] = submit(batch.pixels, batch.um_per_px)
        return wait
    features = encoder.encode(batch.pixels, batch.um_per_px)
    return lambda: features


def _check_finite(batch: Batch, features: Features, sections: Sequence[Section], spec: Mapping[str, Any]) -> None:
    bad = ~np.isfinite(features).all(axis=1)
    if not bad.any():
        return
    first = int(np.argmax(bad))
    run = next(run for run in batch.runs if run.offset <= first < run.offset + len(run))
    section = sections[run.section]
    raise InputError(
        f"{section.slide}: tile {section.sample}/{section.obs_id[run.start + first - run.offset]}",
        f"card '{spec['card']['name']}' gives NaN or infinity ({int(bad.sum())} tiles of this batch).",
        "check the weights; if the pixels are at fault, exclude the section in the sheet.",
    )


class _Parts:
    """The parts being written; batches come in the order of sections and tiles."""

    def __init__(
        self, todo: Sequence[tuple[Section, str]], scratch: Path, encoder: Encoder, tokens: Mapping[str, Any] | None
    ) -> None:
        self._todo, self._scratch, self._encoder, self._tokens = todo, scratch, encoder, tokens
        self._shared = [windows_of(s, tokens) for s, _ in todo] if tokens and tokens["mode"] == "shared" else None
        self.sections = [s for s, _ in (self._shared or todo)]
        self._writers: dict[int, PartWriter | CellWriter] = {}

    def add(self, batch: Batch, features: Features) -> None:
        """Append a batch's features to the parts they belong to."""
        for run in batch.runs:
            if run.section not in self._writers:
                self._writers[run.section] = self._writer(run.section)
            if self._writers[run.section].add(features[run.offset : run.offset + len(run)]):
                del self._writers[run.section]

    def _writer(self, number: int) -> PartWriter | CellWriter:
        section, identity = self._todo[number]
        if self._shared is None or self._tokens is None:
            return PartWriter(self._scratch, section, identity, self._encoder.dim)
        grid, k = int(getattr(self._encoder, "token_grid", 0)), int(self._tokens["k"])
        windows = self._shared[number][1]
        return CellWriter(self._scratch, section, identity, self._encoder.dim, windows, grid, k)

    def close(self) -> None:
        """Remove parts that are not complete."""
        for writer in self._writers.values():
            writer.discard()
