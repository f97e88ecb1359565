"""Encoders over sections: tiles are read once, for one encoder or several, and a killed run resumes by section."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.embeddings.cards import CountEncoder, EncoderSpec, Features
from histoloom.embeddings.reader import Batch, TileRange, TileReader
from histoloom.embeddings.sections import PartWriter, Section, load_part
from histoloom.embeddings.tokens import CellWriter, windows_of
from histoloom.errors import InputError
from histoloom.genes import GeneMatcher, preferred_ids
from histoloom.samples.section import open_section

logger = logging.getLogger(__name__)

_IN_FLIGHT = 2
"""Batches that a GPU has in hand: one computes while the other's features travel back."""

_REPORT_S = 5.0
LARGEST_BATCH = 2048
"""Most tiles that are read at once so that every encoder of a group gets whole batches of its own size."""


class Progress:
    """Tiles done, tiles/s, time left and a GPU's use (where its driver gives it), logged every few seconds."""

    def __init__(self, name: str, total: int, device: str = "cpu") -> None:
        self.name, self.total, self.device = name, total, device
        self.done = self.skipped = 0
        self.waited_s = 0.0
        self.started = self._reported = time.perf_counter()

    def add(self, n: int, waited_s: float = 0.0) -> None:
        """Count encoded tiles; `waited_s` is how long the encoder has waited for pixels in all."""
        self.done += n
        self.waited_s = waited_s
        now = time.perf_counter()
        left = self.total - self.done - self.skipped
        if now - self._reported >= _REPORT_S or left == 0:
            self._reported = now
            elapsed, use = max(now - self.started, 1e-9), gpu_use(self.device)
            rate = self.done / elapsed
            text = "%s: %d of %d tiles, %.0f tiles/s, %.0f s left, %.0f %% of the time spent waiting for pixels%s"
            gpu = "" if use is None else f", GPU {use} % busy"
            waited = 100 * self.waited_s / elapsed
            logger.info(text, self.name, self.total - left, self.total, rate, left / rate, waited, gpu)


def gpu_use(device: str) -> int | None:
    """Return the percentage of the last second in which a GPU computed (needs nvidia-ml-py); None if not known."""
    if not device.startswith("cuda"):
        return None
    import torch

    try:
        refusal: type[Exception] = import_module("pynvml").NVMLError
    except ImportError:
        return None
    try:
        return int(torch.cuda.utilization(device))
    except (RuntimeError, refusal) as error:
        # A slice of a GPU (MIG), say, has no such number.
        logger.debug("the GPU's use is not known: %s", error)
        return None


@dataclass
class EncoderRun:
    """One encoder at work on a batch of sections."""

    spec: EncoderSpec
    encoder: Any
    identities: Sequence[str]  # what the part of each section is made from
    scratch: Path
    content: Mapping[str, Any]  # what decides its features
    tiles: int = 0
    seconds: float = 0.0  # spent on submitting tiles and waiting for features

    def part(self, number: int, section: Section) -> Features | None:
        return load_part(self.scratch, section, self.identities[number], self.encoder.dim)

    @property
    def on_gpu(self) -> bool:
        return self.encoder.device.startswith("cuda")


def run_pixel_encoders(
    sections: Sequence[Section], runs: Sequence[EncoderRun], progress: Progress, *, threads: int = 1
) -> None:
    """Encode what a run has no part of yet, reading every tile once; half of the threads read if all encode on CPUs."""
    lacks = [[run.part(n, section) is None for n, section in enumerate(sections)] for run in runs]
    numbers = _unfinished(sections, lacks, progress)
    parts = [
        _Parts([(sections[n], run.identities[n]) for n in numbers], [lack[n] for n in numbers], run)
        for run, lack in zip(runs, lacks, strict=True)
    ]
    progress.total = progress.skipped + sum(map(len, parts[0].sections))
    on_gpu = [run for run in runs if run.on_gpu]
    reader = TileReader(
        parts[0].sections,
        runs[0].spec.tiles_spec,
        tiles_at_once([run.encoder.batch_size for run in runs]),
        threads=threads if on_gpu else max(1, threads // 2),
        allocate=(on_gpu or runs)[0].encoder.allocate,
    )
    in_flight = _IN_FLIGHT if on_gpu else 1
    under_way: deque[tuple[Batch, list[tuple[_Parts, list[TileRange], Callable[[], Features]]]]] = deque()

    def finish() -> None:
        batch, started = under_way.popleft()
        for part, ranges, ask in started:
            began = time.perf_counter()
            features = ask()
            part.run.seconds += time.perf_counter() - began
            _check_finite(ranges, features, reader.sections, part.run.spec)
            part.add(ranges, features)
        reader.release(batch)
        progress.add(len(batch.pixels), waited_s=reader.waited_s)

    # What a GPU computes is started first: it runs while a CPU's encoder has its turn.
    parts.sort(key=lambda part: not part.run.on_gpu)
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(closing(part))
        for batch in stack.enter_context(closing(iter(reader))):
            if batch.ranges:
                started = ((part, *part.start(batch)) for part in parts if part.lacks_any(batch))
                under_way.append((batch, list(started)))
            while len(under_way) >= in_flight or (under_way and batch.error is not None):
                finish()
            if batch.error is not None:
                raise batch.error
        while under_way:
            finish()


def run_count_encoder(sections: Sequence[Section], run: EncoderRun, matcher: GeneMatcher, progress: Progress) -> None:
    """Encode the counts of the sections that the run has no part of yet; see `run_pixel_encoders`."""
    encoder: CountEncoder = run.encoder
    lacks = [run.part(n, section) is None for n, section in enumerate(sections)]
    for n in _unfinished(sections, [lacks], progress):
        section = sections[n]
        data = open_section(section.path)
        rows = data.obs.index.get_indexer(pd.Index(section.obs_id))
        if len(data.var) == 0 or (rows < 0).any():
            lost = int((rows < 0).sum())
            problem = "has no genes." if len(data.var) == 0 else f"lacks {lost} observations of its tiles."
            remedy = "use an encoder of expression on sections with counts only."
            raise InputError(section.path, problem, remedy, code="encoder-counts")
        keys = [f"{section.sample}/{obs_id}" for obs_id in section.obs_id]
        genes = preferred_ids(data.var) if matcher.table else data.var.index
        features = encoder.encode_counts(data.counts[rows], list(genes), keys, matcher)
        PartWriter(run.scratch, section, run.identities[n], encoder.dim).add(features)
        run.tiles += len(section)
        progress.add(len(section))


def _unfinished(sections: Sequence[Section], lacks: Sequence[Sequence[bool]], progress: Progress) -> list[int]:
    """Return the numbers of the sections that some encoder has not finished; the others count as skipped."""
    numbers = [n for n in range(len(sections)) if any(lack[n] for lack in lacks)]
    for n in sorted(set(range(len(sections))) - set(numbers)):
        progress.skipped += len(sections[n])
        logger.info("%s: %d tiles taken over from the interrupted run", sections[n].sample, len(sections[n]))
    return numbers


def tiles_at_once(chunks: Sequence[int]) -> int:
    """Return how many tiles are read at once: a multiple of what each encoder takes.

    So a forward pass gets the tiles that it would get in a run alone, and its features are equal to the byte. Sizes
    that have no such number up to `LARGEST_BATCH` share the largest of them; features then agree to rounding.
    """
    common = math.lcm(*chunks)
    return common if common <= max(LARGEST_BATCH, max(chunks)) else max(chunks)


def _check_finite(
    ranges: Sequence[TileRange], features: Features, sections: Sequence[Section], spec: EncoderSpec
) -> None:
    bad = ~np.isfinite(features).all(axis=1)
    if not bad.any():
        return
    first = int(np.argmax(bad))
    tiles = next(tiles for tiles in ranges if tiles.offset <= first < tiles.offset + len(tiles))
    section = sections[tiles.section]
    where = f"{section.slide}: tile {section.sample}/{section.obs_id[tiles.start + first - tiles.offset]}"
    problem = f"card '{spec.card['name']}' gives NaN or infinity ({int(bad.sum())} tiles of this batch)."
    remedy = "check the weights; if the pixels are at fault, exclude the section in the sheet."
    raise InputError(where, problem, remedy, code="encoder-nan")


class _Parts:
    """The parts that a run lacks, being written; batches come in the order of sections and tiles."""

    def __init__(self, todo: Sequence[tuple[Section, str]], lacks: Sequence[bool], run: EncoderRun) -> None:
        self._todo, self._lacks, self.run = todo, lacks, run
        self._tokens = run.spec.tokens or {}
        shared = self._tokens.get("mode") == "shared"
        self._shared = [windows_of(s, self._tokens) for s, _ in todo] if shared else None
        self.sections = [s for s, _ in (self._shared or todo)]
        self._writers: dict[int, PartWriter] = {}

    def lacks_any(self, batch: Batch) -> bool:
        return any(self._lacks[tiles.section] for tiles in batch.ranges)

    def start(self, batch: Batch) -> tuple[list[TileRange], Callable[[], Features]]:
        """Start encoding what this run lacks of a batch: its tiles, counted from the first one, and how to wait."""
        ranges = [tiles for tiles in batch.ranges if self._lacks[tiles.section]]
        pixels, um_per_px = batch.pixels, batch.um_per_px
        if len(ranges) < len(batch.ranges):
            rows = np.concatenate([np.arange(tiles.offset, tiles.offset + len(tiles)) for tiles in ranges])
            pixels, um_per_px, offset = pixels[rows], um_per_px[rows], 0
            for i, tiles in enumerate(ranges):
                ranges[i], offset = replace(tiles, offset=offset), offset + len(tiles)
        began = time.perf_counter()
        ask = self.run.encoder.submit(pixels, um_per_px)
        self.run.tiles += len(pixels)
        self.run.seconds += time.perf_counter() - began
        return ranges, ask

    def add(self, ranges: Sequence[TileRange], features: Features) -> None:
        for tiles in ranges:
            if tiles.section not in self._writers:
                self._writers[tiles.section] = self._writer(tiles.section)
            if self._writers[tiles.section].add(features[tiles.offset : tiles.offset + len(tiles)]):
                del self._writers[tiles.section]

    def _writer(self, number: int) -> PartWriter:
        (section, identity), encoder, scratch = self._todo[number], self.run.encoder, self.run.scratch
        if self._shared is None:
            return PartWriter(scratch, section, identity, encoder.dim)
        grid, k = int(encoder.token_grid), int(self._tokens["k"])
        return CellWriter(scratch, section, identity, encoder.dim, self._shared[number][1], grid, k)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.discard()
