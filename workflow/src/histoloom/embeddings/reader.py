"""Pixels for an encoder: threads read ahead, slides are opened ahead, and a batch holds tiles of several sections."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import numpy.typing as npt

from histoloom.embeddings.sections import Section
from histoloom.errors import InputError
from histoloom.slides import Slide, open_slide
from histoloom.tiles.reading import read_tiles
from histoloom.tiles.spec import TileSpec

AHEAD = 3
"""Batches that are read while one is encoded."""

_LEAST_PIECE = 8
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TileRange:
    """Tiles ``start`` to ``stop`` of section number ``section``, at ``offset`` in a batch."""

    section: int
    start: int
    stop: int
    offset: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass
class Batch:
    """Tiles of one or more sections."""

    pixels: UInt8
    um_per_px: npt.NDArray[np.float64]  # of each tile
    ranges: list[TileRange]
    error: BaseException | None = None  # stopped the reading after these tiles; raise it once they are dealt with
    _buffer: UInt8 = field(default_factory=lambda: np.empty(0, np.uint8), repr=False)


class TileReader:
    """Batches of ``size`` tiles (the last: what is left) in the order of sections, the same for any threads."""

    def __init__(
        self,
        sections: Sequence[Section],
        tiles: TileSpec,
        size: int,
        *,
        threads: int = 1,
        allocate: Callable[[tuple[int, ...]], UInt8] | None = None,
    ) -> None:
        self.sections, self.tiles, self.size, self.threads = sections, tiles, size, max(1, threads)
        self.waited_s = 0.0
        self._allocate = allocate or (lambda shape: np.empty(shape, np.uint8))
        self._free: list[UInt8] = []
        self._slides = _Slides(sections, ahead=max(1, min(4, threads // 4)))
        self._pool = ThreadPoolExecutor(self.threads, "tile-reader")

    def __iter__(self) -> Generator[Batch]:
        """Yield batches; a batch's memory is used again after `release`."""
        plan = self._plan()
        waiting: deque[tuple[UInt8, list[tuple[TileRange, Future[None]]]]] = deque()
        try:
            while True:
                while len(waiting) <= AHEAD and (ranges := next(plan, None)) is not None:
                    waiting.append(self._start(ranges))
                if not waiting:
                    return
                batch = self._finish(*waiting.popleft())
                yield batch
                if batch.error is not None:
                    return
        finally:
            self.close()

    def release(self, batch: Batch) -> None:
        self._free.append(batch._buffer)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._slides.close()

    def _plan(self) -> Generator[list[TileRange]]:
        ranges: list[TileRange] = []
        filled = 0
        for number, section in enumerate(self.sections):
            start = 0
            while start < len(section):
                stop = min(len(section), start + self.size - filled)
                ranges.append(TileRange(number, start, stop, filled))
                filled += stop - start
                start = stop
                if filled == self.size:
                    yield ranges
                    ranges, filled = [], 0
        if ranges:
            yield ranges

    def _start(self, ranges: list[TileRange]) -> tuple[UInt8, list[tuple[TileRange, Future[None]]]]:
        side = self.tiles.size_px
        buffer = self._free.pop() if self._free else self._allocate((self.size, side, side, 3))
        piece = max(_LEAST_PIECE, -(-self.size // self.threads))
        work = []
        for tiles in ranges:
            for start in range(tiles.start, tiles.stop, piece):
                part = TileRange(
                    tiles.section, start, min(start + piece, tiles.stop), tiles.offset + start - tiles.start
                )
                slide = self._slides.ask(part.section)
                work.append((part, self._pool.submit(self._read, part, slide, buffer)))
        return buffer, work

    def _read(self, tiles: TileRange, slide: Future[Slide], buffer: UInt8) -> None:
        section = self.sections[tiles.section]
        side = float(section.facts["size_level0_px"])
        centres = section.centres[tiles.start : tiles.stop]
        pixels = read_tiles(slide.result(), centres, side, self.tiles.size_px, pad=self.tiles.pad)
        for i, tile in enumerate(pixels, start=tiles.offset):
            buffer[i] = tile
        self._slides.done(tiles.section, len(tiles))

    def _finish(self, buffer: UInt8, work: list[tuple[TileRange, Future[None]]]) -> Batch:
        began = time.perf_counter()
        ranges: list[TileRange] = []
        error: BaseException | None = None
        for tiles, future in work:
            error = future.exception()
            if error is not None:
                break
            ranges.append(tiles)
        self.waited_s += time.perf_counter() - began
        n = ranges[-1].offset + len(ranges[-1]) if ranges else 0
        scales = [np.full(len(tiles), float(self.sections[tiles.section].facts["um_per_px"])) for tiles in ranges]
        return Batch(buffer[:n], np.concatenate([np.zeros(0), *scales]), ranges, error, buffer)


class _Slides:
    """Slides, each opened once and shared by the threads, some ahead of their turn, closed after their last tile."""

    def __init__(self, sections: Sequence[Section], ahead: int) -> None:
        self._sections, self._ahead = sections, ahead
        self._left = [len(section) for section in sections]
        self._open: dict[int, Future[Slide]] = {}
        self._closed: set[int] = set()
        self._lock = Lock()
        # A pool of its own: readers that wait for a slide must not keep it from being opened.
        self._pool = ThreadPoolExecutor(ahead, "slide-opener")

    def ask(self, number: int) -> Future[Slide]:
        """Return the slide of a section, in the making or made; called by one thread, in order."""
        for i in range(number, min(number + 1 + self._ahead, len(self._sections))):
            with self._lock:
                if i not in self._open:
                    self._open[i] = self._pool.submit(_open, self._sections[i])
        return self._open[number]

    def done(self, number: int, tiles: int) -> None:
        with self._lock:
            self._left[number] -= tiles
            finished = self._left[number] == 0
        if finished:
            # Once only: closing an OpenSlide handle twice crashes.
            self._closed.add(number)
            self._open[number].result().close()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for number, slide in self._open.items():
            if number not in self._closed and slide.done() and not slide.cancelled() and slide.exception() is None:
                slide.result().close()


def _open(section: Section) -> Slide:
    if section.slide is None:
        raise InputError(section.path, "has no slide to read tiles from.", "give the slide.", code="tiles-no-slide")
    slide = open_slide(section.slide)
    # A plain picture is decoded at its first read: here, where nothing waits, and once.
    slide.read(0, 0, 1, 1)
    return slide
