"""The stage `embeddings`: tiles of several sections through one frozen encoder, resumable section by section."""

from __future__ import annotations

import json
import logging
import platform
import queue
import resource
import shutil
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.embeddings.artefact import write_embeddings
from histoloom.embeddings.cards import Encoder, build_encoder, full_spec
from histoloom.embeddings.sections import Section, load_part, open_sections, save_part
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.slides import open_slide
from histoloom.tiles.reading import read_tiles
from histoloom.tiles.spec import TileSpec

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
_AHEAD = 3
_EVERY_S = 5.0
UInt8 = npt.NDArray[np.uint8]


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

    Raises
    ------
    InputError
        If tiles, weights or pixels cannot be used, or a feature is not finite.
    """
    spec = full_spec(spec)
    sections = open_sections(cohort, samples, slides, tiles, spec["tiles_spec"])
    started = time.perf_counter()
    with closing(build_encoder(spec, threads=threads, device=device)) as encoder:
        metadata = _metadata(cohort, batch, sections, spec, encoder)
        progress = Progress(f"{cohort}/{batch}", sum(map(len, sections)))
        features = [_section_features(s, spec, encoder, scratch, progress) for s in sections]
        record = _efficiency(encoder, progress, time.perf_counter() - started)
    write_embeddings(
        out,
        features=np.concatenate(features),
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
        "identity": make_identity("embeddings", STAGE_VERSION, params, inputs),
    }


def _content(spec: Mapping[str, Any], encoder: Encoder) -> dict[str, Any]:
    """Return what decides an embedding: not its name, nor where weights lie, batch size, threads or device."""
    return {
        "card": spec["card"],
        "weights_sha256": encoder.weights_sha256,
        "upsample": spec["upsample"],
        "tiles_spec": TileSpec.from_dict(spec["tiles_spec"]).as_dict(),
    }


def _section_features(
    section: Section, spec: Mapping[str, Any], encoder: Encoder, scratch: Path, progress: Progress
) -> npt.NDArray[np.float32]:
    """Return a section's features, from an interrupted run where they fit, else from its pixels."""
    params = {**_content(spec, encoder), "batch_size": spec["batch_size"], "precision": encoder.precision}
    identity = make_identity("embeddings.part", STAGE_VERSION, params, {"tiles": section.identity})["sha256"]
    features = load_part(scratch, section, identity, encoder.dim)
    if features is not None:
        progress.skip(len(section))
        logger.info("%s: %d tiles taken over from the interrupted run", section.sample, len(section))
        return features
    features = encode_section(section, spec, encoder, progress)
    save_part(scratch, section, identity, features)
    return features


def encode_section(
    section: Section, spec: Mapping[str, Any], encoder: Encoder, progress: Progress
) -> npt.NDArray[np.float32]:
    """Read every tile of a section once and encode it.

    Returns
    -------
    ndarray
        float32, (n, dim).

    Raises
    ------
    InputError
        If pixels cannot be read, or a feature is not finite (names the tile).
    """
    features = np.empty((len(section), encoder.dim), np.float32)
    um_per_px, done = float(section.facts["um_per_px"]), 0
    with closing(_ahead(_batches(section, spec, encoder.chunk))) as batches:
        for pixels in batches:
            found = encoder.encode(pixels, um_per_px)
            bad = ~np.isfinite(found).all(axis=1)
            if bad.any():
                name = section.obs_id[done + int(np.argmax(bad))]
                raise InputError(
                    f"{section.slide}: tile {section.sample}/{name}",
                    f"card '{spec['card']['name']}' gives NaN or infinity ({int(bad.sum())} tiles of this batch).",
                    "check the weights; if the pixels are at fault, exclude the section in the sheet.",
                )
            features[done : done + len(found)] = found
            done += len(found)
            progress.add(len(found))
    return features


def _batches(section: Section, spec: Mapping[str, Any], size: int) -> Generator[UInt8, None, None]:
    """Yield uint8 (<= size, size_px, size_px, 3) in the order of the section's tiles."""
    tiles = TileSpec.from_dict(spec["tiles_spec"])
    side = float(section.facts["size_level0_px"])
    with open_slide(section.slide) as slide:
        pixels = read_tiles(slide, section.centres, side, tiles.size_px, pad=tiles.pad)
        for start in range(0, len(section), size):
            batch = np.empty((min(size, len(section) - start), tiles.size_px, tiles.size_px, 3), np.uint8)
            for i in range(len(batch)):
                batch[i] = next(pixels)
            yield batch


def _ahead(batches: Generator[UInt8, None, None]) -> Generator[UInt8]:
    """Yield batches that a thread reads ahead: the encoder does not wait for the slide."""
    box: queue.Queue[UInt8 | BaseException | None] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(item: UInt8 | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                box.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked, which raises it
            put(error)
        else:
            put(None)
        finally:
            batches.close()

    reader = threading.Thread(target=work, name="tile-reader", daemon=True)
    reader.start()
    try:
        while (item := box.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        reader.join()


class Progress:
    """Tiles done, tiles/s and time left, told to the log every few seconds.

    Parameters
    ----------
    name
        What is under way.
    total
        Tiles in all.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.done = self.skipped = 0
        self.started = self._told = time.perf_counter()

    def skip(self, n: int) -> None:
        """Count tiles taken over from an earlier run."""
        self.skipped += n

    def add(self, n: int) -> None:
        """Count encoded tiles."""
        self.done += n
        now = time.perf_counter()
        left = self.total - self.done - self.skipped
        if now - self._told >= _EVERY_S or left == 0:
            self._told = now
            rate = self.done / max(now - self.started, 1e-9)
            finished = self.done + self.skipped
            logger.info(
                "%s: %d of %d tiles, %.0f tiles/s, %.0f s left", self.name, finished, self.total, rate, left / rate
            )


def _efficiency(encoder: Encoder, progress: Progress, seconds: float) -> dict[str, Any]:
    """Return the efficiency record; `seconds` counts from the loading of the weights."""
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1024**2 if sys.platform == "darwin" else 1024
    encoding = time.perf_counter() - progress.started
    gpu, hardware = None, f"{_cpu_name()}, {platform.system()}"
    if encoder.device.startswith("cuda"):
        import torch

        gpu = torch.cuda.max_memory_allocated(encoder.device) / 1024**2
        hardware = f"{torch.cuda.get_device_name(encoder.device)}; {hardware}"
    return {
        "stage": "embeddings",
        "seconds": round(seconds, 3),
        "encoding_seconds": round(encoding, 3),
        "peak_rss_mb": round(max(own, children) / unit, 1),
        "peak_gpu_mb": gpu if gpu is None else round(gpu, 1),
        "items": progress.done,
        "items_resumed": progress.skipped,
        "items_per_s": round(progress.done / max(encoding, 1e-9), 2),
        "device": encoder.device,
        "precision": encoder.precision,
        "hardware": hardware,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
