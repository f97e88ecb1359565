"""The pass over the pixels: tiles are read once, for one encoder or several, resumable section by section."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.embeddings.cards import Encoder
from histoloom.embeddings.progress import Progress
from histoloom.embeddings.reader import Batch, Run, TileReader
from histoloom.embeddings.sections import PartWriter, Section, load_part
from histoloom.embeddings.tokens import CellWriter, windows_of
from histoloom.errors import InputError
from histoloom.genes import preferred_ids
from histoloom.samples.section import open_section
from histoloom.tiles.spec import TileSpec

logger = logging.getLogger(__name__)

_IN_FLIGHT = 2
"""Batches that a GPU has in hand: one computes while the other's features travel back."""

LARGEST_BATCH = 2048
"""Most tiles that are read at once so that every encoder of a pass gets whole batches of its own size."""

Features = npt.NDArray[np.float32]


@dataclass
class Member:
    """One encoder of a pass.

    Attributes
    ----------
    spec
        Its full entry.
    encoder
        The encoder, weights loaded.
    identities
        What the part of each section is made from.
    scratch
        Folder of its parts.
    tiles, seconds
        Tiles encoded, and seconds spent on submitting them and waiting for their features.
    """

    spec: Mapping[str, Any]
    encoder: Encoder
    identities: Sequence[str]
    scratch: Path
    tiles: int = 0
    seconds: float = 0.0

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.encoder.device.startswith("cuda")


def sweep(sections: Sequence[Section], members: Sequence[Member], progress: Progress, *, threads: int = 1) -> None:
    """Encode the sections that a member has no part of yet; each finished one becomes a part in its scratch.

    Parameters
    ----------
    sections
        The sections.
    members
        The encoders, on the same tile spec. Every tile is read once, whatever their number.
    progress
        Is told of every batch.
    threads
        Threads that read, if an encoder computes on a GPU; with a CPU's arithmetic half of them.

    Raises
    ------
    InputError
        If pixels cannot be read, or a feature is not finite (names the tile).
    """
    lacks = [
        [load_part(m.scratch, s, i, m.encoder.dim) is None for s, i in zip(sections, m.identities, strict=True)]
        for m in members
    ]
    numbers = [n for n in range(len(sections)) if any(lack[n] for lack in lacks)]
    for n in sorted(set(range(len(sections))) - set(numbers)):
        progress.skip(len(sections[n]))
        logger.info("%s: %d tiles taken over from the interrupted run", sections[n].sample, len(sections[n]))
    if reads_counts(members[0].encoder):
        for n in numbers:
            embed_counts(sections[n], members[0].identities[n], members[0].encoder, members[0].scratch)
            members[0].tiles += len(sections[n])
            progress.add(len(sections[n]))
        return
    parts = [
        _Parts([(sections[n], m.identities[n]) for n in numbers], [lack[n] for n in numbers], m)
        for m, lack in zip(members, lacks, strict=True)
    ]
    progress.total = progress.skipped + sum(map(len, parts[0].sections))
    on_gpu = [m for m in members if m.on_gpu]
    reader = TileReader(
        parts[0].sections,
        TileSpec.from_dict(members[0].spec["tiles_spec"]),
        tiles_at_once([m.encoder.chunk for m in members]),
        threads=threads if on_gpu else max(1, threads // 2),
        allocate=getattr((on_gpu or members)[0].encoder, "allocate", None),
    )
    in_flight = _IN_FLIGHT if on_gpu else 1
    under_way: deque[tuple[Batch, list[_Started]]] = deque()

    def finish() -> None:
        batch, started = under_way.popleft()
        for one in started:
            features = one.wait()
            _check_finite(one.runs, features, reader.sections, one.part.member.spec)
            one.part.add(one.runs, features)
        reader.release(batch)
        progress.add(len(batch.pixels), waited_s=reader.waited_s)

    # What a GPU computes is started first: it runs while a CPU's encoder has its turn.
    parts.sort(key=lambda part: not part.member.on_gpu)
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(closing(part))
        for batch in stack.enter_context(closing(iter(reader))):
            if batch.runs:
                under_way.append((batch, [one for part in parts if (one := part.start(batch)) is not None]))
            while len(under_way) >= in_flight or (under_way and batch.error is not None):
                finish()
            if batch.error is not None:
                raise batch.error
        while under_way:
            finish()


def tiles_at_once(chunks: Sequence[int]) -> int:
    """Return how many tiles are read at once: a multiple of what each encoder takes.

    So a forward pass gets the tiles that it would get in a run alone, and its features are equal to the byte. Sizes
    that have no such number up to `LARGEST_BATCH` share the largest of them; features then agree to rounding.
    """
    common = math.lcm(*chunks)
    return common if common <= max(LARGEST_BATCH, max(chunks)) else max(chunks)


def reads_counts(encoder: Encoder) -> bool:
    """Whether an encoder reads expression and not pixels."""
    return getattr(encoder, "reads", "pixels") == "expression"


def embed_counts(section: Section, identity: str, encoder: Any, scratch: Path) -> None:
    """Encode the counts of a section's kept tiles.

    Raises
    ------
    InputError
        If the section lacks genes, or an observation of its tiles.
    """
    data = open_section(section.path)
    rows = data.obs.index.get_indexer(pd.Index(section.obs_id))
    if len(data.var) == 0 or (rows < 0).any():
        what = "has no genes" if len(data.var) == 0 else f"lacks {int((rows < 0).sum())} observations of its tiles"
        raise InputError(section.path, f"{what}.", "use an encoder of expression on sections with counts only.")
    keys = [f"{section.sample}/{obs_id}" for obs_id in section.obs_id]
    genes = preferred_ids(data.var) if encoder.gene_matcher.table else data.var.index
    features = encoder.encode_counts(data.counts[rows], list(genes), keys)
    PartWriter(scratch, section, identity, encoder.dim).add(features)


@dataclass
class _Started:
    """A batch in an encoder's hands: its runs, counted from the encoder's first tile, and how to wait for them."""

    part: _Parts
    runs: list[Run]
    ask: Callable[[], Features]

    def wait(self) -> Features:
        """Return the features; the time goes to the member's account."""
        began = time.perf_counter()
        features = self.ask()
        self.part.member.seconds += time.perf_counter() - began
        return features


def _submit(encoder: Encoder, pixels: npt.NDArray[np.uint8], um_per_px: npt.NDArray[np.float64]) -> Any:
    """Start a batch; an encoder that cannot do so encodes it at once."""
    submit = getattr(encoder, "submit", None)
    if submit is not None:
        return submit(pixels, um_per_px)
    features = encoder.encode(pixels, um_per_px)
    return lambda: features


def _check_finite(
    runs: Sequence[Run], features: Features, sections: Sequence[Section], spec: Mapping[str, Any]
) -> None:
    bad = ~np.isfinite(features).all(axis=1)
    if not bad.any():
        return
    first = int(np.argmax(bad))
    run = next(run for run in runs if run.offset <= first < run.offset + len(run))
    section = sections[run.section]
    raise InputError(
        f"{section.slide}: tile {section.sample}/{section.obs_id[run.start + first - run.offset]}",
        f"card '{spec['card']['name']}' gives NaN or infinity ({int(bad.sum())} tiles of this batch).",
        "check the weights; if the pixels are at fault, exclude the section in the sheet.",
    )


class _Parts:
    """The parts that a member lacks, being written; batches come in the order of sections and tiles."""

    def __init__(self, todo: Sequence[tuple[Section, str]], lacks: Sequence[bool], member: Member) -> None:
        self._todo, self._lacks, self.member = todo, lacks, member
        self._tokens = member.spec["tokens"]
        shared = self._tokens and self._tokens["mode"] == "shared"
        self._shared = [windows_of(s, self._tokens) for s, _ in todo] if shared else None
        self.sections = [s for s, _ in (self._shared or todo)]
        self._writers: dict[int, PartWriter | CellWriter] = {}

    def start(self, batch: Batch) -> _Started | None:
        """Start encoding what this member lacks of a batch; None where it has everything."""
        runs = [run for run in batch.runs if self._lacks[run.section]]
        pixels, um_per_px = batch.pixels, batch.um_per_px
        if not runs:
            return None
        if len(runs) < len(batch.runs):
            rows = np.concatenate([np.arange(run.offset, run.offset + len(run)) for run in runs])
            pixels, um_per_px, at = pixels[rows], um_per_px[rows], 0
            for i, run in enumerate(runs):
                runs[i], at = replace(run, offset=at), at + len(run)
        began = time.perf_counter()
        ask = _submit(self.member.encoder, pixels, um_per_px)
        self.member.tiles += len(pixels)
        self.member.seconds += time.perf_counter() - began
        return _Started(self, runs, ask)

    def add(self, runs: Sequence[Run], features: Features) -> None:
        """Append a batch's features to the parts they belong to."""
        for run in runs:
            if run.section not in self._writers:
                self._writers[run.section] = self._writer(run.section)
            if self._writers[run.section].add(features[run.offset : run.offset + len(run)]):
                del self._writers[run.section]

    def _writer(self, number: int) -> PartWriter | CellWriter:
        (section, identity), encoder, scratch = self._todo[number], self.member.encoder, self.member.scratch
        if self._shared is None:
            return PartWriter(scratch, section, identity, encoder.dim)
        grid, k = int(getattr(encoder, "token_grid", 0)), int(self._tokens["k"])
        return CellWriter(scratch, section, identity, encoder.dim, self._shared[number][1], grid, k)

    def close(self) -> None:
        """Remove parts that are not complete."""
        for writer in self._writers.values():
            writer.discard()
