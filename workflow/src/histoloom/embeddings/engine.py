"""The stage `embeddings`: tiles of several sections through frozen encoders, one or a group at a time."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from histoloom.devices import lease_device
from histoloom.efficiency import Meter
from histoloom.embeddings.artefact import card_content
from histoloom.embeddings.cards import EncoderSpec, build_encoder
from histoloom.embeddings.run_encoders import EncoderRun, Progress, run_count_encoder, run_pixel_encoders
from histoloom.embeddings.sections import Section, open_sections, write_sections
from histoloom.embeddings.tokens import saved
from histoloom.errors import InputError
from histoloom.genes import BY_ID, BY_NAME, GeneMatcher
from histoloom.identity import make_identity, sha256_file


def embed_batch(
    *,
    cohort: str,
    batch: str,
    samples: Sequence[Path],
    slides: Sequence[Path],
    tiles: Sequence[Path],
    specs: Sequence[EncoderSpec],
    out: Sequence[Path],
    efficiency: Sequence[Path],
    scratch: Sequence[Path],
    threads: int,
    device: str = "auto",
    genes: Path | None = None,
) -> None:
    """Embed the kept tiles of several sections with one encoder or a group of them; every tile is read once.

    ``samples``, ``slides`` and ``tiles`` are sections (h5ad), slide images (none for an encoder of counts) and tables
    of tiles (parquet), in the same order. Each encoder has a spec (all on the same tile spec), an h5 to write, a JSON
    of its costs to write, and a folder of finished sections, which a run after a kill takes over and which is removed
    at the end. ``genes`` is the table that matches genes with the vocabulary of an encoder of counts
    (`histoloom.genes`); None: by name.
    """
    kinds = [spec.kind for spec in specs]
    _check_group(specs)
    sections = open_sections(cohort, samples, slides, tiles, specs[0].tiles_spec.as_dict())
    n_tiles = sum(map(len, sections))
    with ExitStack() as stack:
        # A formula is computed on the CPU.
        device = stack.enter_context(lease_device(device if any(kind.weights for kind in kinds) else "cpu"))
        meter = Meter("embeddings", device, threads)
        runs: dict[int, EncoderRun] = {}
        # Those without weights first: they start worker processes, before torch has threads or a GPU.
        for i in sorted(range(len(specs)), key=lambda i: kinds[i].weights):
            spec = replace(specs[i], tiles_in_job=n_tiles)
            encoder = stack.enter_context(closing(build_encoder(spec, threads=threads, device=device)))
            matching = None
            if kinds[i].reads == "counts":
                matching = {"matched_by": BY_ID if genes else BY_NAME, "table": genes and sha256_file(genes)}
            content = _content(spec, encoder.weights_sha256, matching)
            params = {**content, "precision": encoder.precision}
            parts = [make_identity("embeddings.part", params, {"tiles": section.identity}) for section in sections]
            runs[i] = EncoderRun(spec, encoder, [str(part["sha256"]) for part in parts], scratch[i], content)
        on_gpu = [run for run in runs.values() if run.on_gpu] or list(runs.values())
        progress = Progress(f"{cohort}/{batch}", n_tiles, on_gpu[0].encoder.device)
        if kinds[0].reads == "counts":
            run_count_encoder(sections, runs[0], GeneMatcher(genes), progress)
        else:
            run_pixel_encoders(sections, list(runs.values()), progress, threads=threads)
        for i, run in runs.items():
            record = _record(meter, progress, run, len(runs))
            _write(out[i], cohort, batch, sections, run)
            Path(efficiency[i]).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    for folder in scratch:
        shutil.rmtree(folder, ignore_errors=True)


def _check_group(specs: Sequence[EncoderSpec]) -> None:
    for spec in specs:
        where = f"encoders '{specs[0].name}' and '{spec.name}'"
        if spec.tiles_spec != specs[0].tiles_spec:
            remedy = "put encoders of one tile spec into a group."
            raise InputError(where, "see other tiles.", remedy, code="encoder-group-tiles")
        if spec.kind.reads == "counts" and len(specs) > 1:
            raise InputError(where, "do not both read pixels.", "leave one out.", code="encoder-group-counts")


def _record(meter: Meter, progress: Progress, run: EncoderRun, encoders: int) -> dict[str, Any]:
    encoding = max(time.perf_counter() - progress.started, 1e-9)
    more: dict[str, Any] = {
        "encoding_seconds": round(encoding, 3),
        "items_resumed": progress.total - run.tiles,
        "items_per_s": round(run.tiles / encoding, 2),
        "waited_share": round(progress.waited_s / encoding, 3),
        "batch_size": run.encoder.batch_size,
        "precision": run.encoder.precision,
    }
    if encoders > 1:
        more |= {"encoders_in_group": encoders, "encoder_seconds": round(run.seconds, 3)}
    return meter.record(run.tiles, **more)


def _write(out: Path, cohort: str, batch: str, sections: Sequence[Section], run: EncoderRun) -> None:
    spec, encoder = run.spec, run.encoder
    facts = {
        "card": spec.card,
        "revision": encoder.revision,
        "weights_sha256": encoder.weights_sha256,
        "dim": encoder.dim,
        "feature_names": encoder.feature_names,
        "tiles_spec": spec.tiles_spec.as_dict(),
        "encoder": spec.name,
        **({"genes_matched_by": run.content["genes"]["matched_by"]} if "genes" in run.content else {}),
        **({"tokens": {**spec.tokens, **saved(sections, spec.tokens)}} if spec.tokens else {}),
    }
    parts = [part for n, section in enumerate(sections) if (part := run.part(n, section)) is not None]
    write_sections(out, cohort, batch, sections, parts, stage="embeddings", params=run.content, **facts)


def _content(spec: EncoderSpec, weights_sha256: str | None, matching: Any = None) -> dict[str, Any]:
    """Return what decides an embedding: not its name, nor where weights lie, batch size, threads or device."""
    return {
        "card": card_content(spec.card),
        "weights_sha256": weights_sha256,
        "upsample": spec.upsample,
        **({"tokens": spec.tokens} if spec.tokens else {}),
        **({"genes": matching} if matching else {}),
        "tiles_spec": spec.tiles_spec.as_dict(),
    }
